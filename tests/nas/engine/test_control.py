"""A study is paused and stopped from outside, whoever drives it, and changes nothing of what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas import engine
from nas.engine import STOPPED, Ended
from nas.execution import lease
from nas.execution.database import DatabaseRunner
from nas.execution.lease import Lease
from nas.execution.local import LocalRunner
from searchspace.spec.arch import ArchSpec
from studies.control import change
from studies.records import Study
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of

AT, TRIALS = 5, 12


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as opened:
        yield opened


def want(control: str, store: Store, study: Study, held: Lease) -> None:
    """Say what is wanted, and wait until the driver has heard."""
    change(store, study, control=control)
    while held.control != control:
        time.sleep(0.005)


def judge_that(act: Callable[[], None]) -> Callable[[ArchSpec], dict[str, float]]:
    calls = 0

    def judge(arch: ArchSpec) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == AT:
            act()
        return toy.judge(arch)

    return judge


def results(store: Store, study: Study) -> list[tuple[str, dict[str, float]]]:
    return [(t.arch_id, t.values) for t in store.trials(study, states=["complete"])]


def expected(store: Store) -> list[tuple[str, dict[str, float]]]:
    study = store.create_study(toy.study("nsga2", TRIALS, name="undisturbed"))
    engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
    return results(store, study)


def test_a_stop_lets_the_trial_end_and_the_study_go_on_later(store: Store) -> None:
    study = store.create_study(toy.study("nsga2", TRIALS))
    events: list[engine.Event] = []
    with Lease(store, study) as held:
        judge = judge_that(lambda: want("stop", store, study, held))
        runner = LocalRunner(judge, toy.OBJECTIVES)
        study = engine.run(study, store, searcher_of(study), runner, lease=held, on_event=events.append)
    assert (study.state, events[-1]) == ("stopped", Ended(STOPPED, "stopped"))
    assert [t.state for t in store.trials(study)] == ["complete"] * AT
    change(store, study, control="")
    engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
    assert results(store, study) == expected(store)


def test_a_pause_begins_no_trial_until_the_study_is_wanted_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = store.create_study(toy.study("nsga2", TRIALS, max_seconds=3600.0))
    seen: list[int] = []
    with Lease(store, study) as held:

        def wait(seconds: float) -> None:
            seen.append(len(store.trials(study)))
            if len(seen) == 3:
                want("run", store, study, held)

        monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
        judge = judge_that(lambda: want("pause", store, study, held))
        runner = LocalRunner(judge, toy.OBJECTIVES)
        study = engine.run(study, store, searcher_of(study), runner, lease=held)
    assert seen == [AT] * 3
    assert study.state == "finished"
    assert results(store, study) == expected(store)


def test_a_stop_does_not_wait_for_workers_that_may_never_come(store: Store) -> None:
    study = store.create_study(toy.study("nsga2", TRIALS))
    with ThreadPoolExecutor(1) as pool, Lease(store, study) as held:
        runner = DatabaseRunner(store, study)
        driver = pool.submit(engine.run, study, store, searcher_of(study), runner, lease=held)
        while not store.trials(study, states=["waiting"]):
            time.sleep(0.01)
        want("stop", store, study, held)
        assert driver.result().state == "stopped"
