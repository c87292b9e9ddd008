"""The loop keeps the lag rule, survives what goes wrong, and ends for the reasons it names."""

from __future__ import annotations

import math
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from nas import engine
from nas.engine import Ended, Recovered, TrialFinished
from nas.errors import StoreError, UsageError
from nas.execution import lease
from nas.execution.lease import Lease
from nas.execution.local import LocalRunner
from nas.execution.outcome import evaluate_trial
from nas.execution.runner import Runner
from nas.searchers.base import TO_THE_END, NothingInTime, Observation, Problem, Proposal
from nas.searchers.random_searcher import RandomSearcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.errors import LeaseLost
from studies.patience import Patience
from studies.records import Outcome, Study, StudyState, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import make_runner, searcher_of

Results = dict[int, tuple[str, dict[str, float]]]


class ShuffledRunner:
    """Several in flight, ended in a random order, one or more at a time."""

    through_database = False

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rng = random.Random(capacity)
        self._in_flight: list[Trial] = []

    def submit(self, trial: Trial) -> None:
        assert len(self._in_flight) < self.capacity
        self._in_flight.append(trial)

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        self._rng.shuffle(self._in_flight)
        count = self._rng.randint(1, len(self._in_flight))
        return [evaluate_trial(toy.judge, self._in_flight.pop(), toy.OBJECTIVES) for _ in range(count)]

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as opened:
        yield opened


def local(**settings: object) -> Runner:
    return make_runner(0, **settings)


def results(store: Store, study: Study) -> Results:
    trials = store.trials(study)
    assert [t.number for t in trials] == list(range(len(trials)))
    assert len({t.arch_id for t in trials}) == len(trials)
    return {t.number: (t.arch_id, t.values) for t in trials}


def search(store: Store, study: Study, runner: Runner | None = None) -> Results:
    study = store.create_study(study)
    engine.run(study, store, searcher_of(study), runner or local())
    return results(store, study)


@pytest.mark.parametrize("searcher", ["random", "nsga2"])
def test_order_and_number_of_workers_do_not_change_the_trajectory(store: Store, searcher: str) -> None:
    study = toy.study(searcher, 60, lag=6)
    expected = search(store, study)
    for capacity in (2, 5, 9):
        assert (
            search(store, replace(study, name=f"shuffled {capacity}"), ShuffledRunner(capacity)) == expected
        )
    with closing(make_runner(3, sleep_ms=3.0, jitter=1)) as pool:
        assert search(store, replace(study, name="pool"), pool) == expected


@pytest.mark.parametrize("lag", [0, 1, 5])
def test_every_trial_is_proposed_from_exactly_the_results_that_the_lag_allows(store: Store, lag: int) -> None:
    calls: list[tuple[str, int]] = []

    class Recorder(RandomSearcher):
        def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
            assert seconds_left == (None if number < 11 else math.inf)  # only the last trial is near the end
            calls.append(("ask", number))
            return super().ask(number)

        def tell(self, trial: Observation) -> None:
            calls.append(("tell", trial.number))

    study = store.create_study(toy.study(max_trials=12, lag=lag))
    engine.run(study, store, Recorder(searcher_of(study).problem), ShuffledRunner(4))
    expected = []
    for n in range(12):
        expected += [("tell", n - lag - 1)] * (n > lag) + [("ask", n)]
    assert calls == expected


def test_a_searcher_is_told_when_the_time_is_nearly_over_and_its_answer_is_taken_from_the_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on with every trial."""
    left: list[float | None] = []
    registered: list[str] = []

    class Hurried(RandomSearcher):
        def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
            left.append(seconds_left)
            proposal = super().ask(number)
            return proposal if seconds_left is None else replace(proposal, origin=TO_THE_END)

        def register(self, arch_id: str, arch: Any, fidelity: str = "", origin: str = "") -> None:
            registered.append(origin)
            super().register(arch_id, arch, fidelity, origin)

    monkeypatch.setattr(time, "monotonic", lambda: float(len(left)))
    study = store.create_study(replace(toy.study(max_trials=99, lag=2), max_seconds=20.0))
    engine.run(study, store, Hurried(searcher_of(study).problem), ShuffledRunner(1))
    assert left == [None] * 15 + [5.0, 4.0, 3.0, 2.0, 1.0]
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    engine.run(replace(study, max_trials=22), store, Hurried(searcher_of(study).problem), ShuffledRunner(1))
    assert registered == ["random"] * 15 + [TO_THE_END] * 5


def test_the_end_begins_earlier_where_judging_the_best_takes_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float | None] = []

    class Slow(RandomSearcher):
        needed = 24.0

        def finishing_seconds(self) -> float:
            return self.needed

        def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
            left.append(seconds_left)
            return super().ask(number)

    monkeypatch.setattr(time, "monotonic", lambda: float(len(left)))
    for needed, begun in ((24.0, 8), (1000.0, 6)):  # two at a time; at most seven tenths of the time
        left.clear()
        study = store.create_study(
            replace(toy.study(max_trials=99, lag=2), name=f"{needed}", max_seconds=20.0)
        )
        searcher = Slow(searcher_of(study).problem)
        searcher.needed = needed
        engine.run(study, store, searcher, ShuffledRunner(2))
        assert left.count(None) == begun + 1  # and no longer once less than that is left
        assert left[begun + 1] == 20.0 - begun - 1


def test_a_search_ends_early_where_nothing_more_would_end_in_time_but_waits_for_what_is_under_way(
    store: Store,
) -> None:
    class Late(RandomSearcher):
        refused = 0

        def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
            if number >= 8:
                self.refused += 1
                raise NothingInTime("too late")
            return super().ask(number)

    study = store.create_study(replace(toy.study(max_trials=99, lag=4), max_seconds=3600.0))
    searcher, events = Late(searcher_of(study).problem), list[engine.Event]()
    ended = engine.run(study, store, searcher, ShuffledRunner(2), on_event=events.append)
    assert ended.state == StudyState.STOPPED
    assert events[-1] == engine.Ended("too late", StudyState.STOPPED)
    assert len(store.trials(ended)) == 8
    assert all(t.is_finished for t in store.trials(ended))
    assert searcher.refused == 2  # with one under way, and with none


@pytest.mark.parametrize("searcher", ["random", "nsga2", "tpe"])
def test_a_small_space_is_exhausted_with_every_architecture_evaluated_once(
    store: Store, searcher: str
) -> None:
    space = toy.tiny_space()
    encoding = Encoding(space)
    every = {encoding.decode(g).id for g in product(*map(range, encoding.num_values.tolist()))}
    assert len(every) == 12
    study = store.create_study(toy.study(searcher, 100, space=space.to_json(), lag=2))
    events: list[engine.Event] = []
    study = engine.run(study, store, searcher_of(study), ShuffledRunner(2), on_event=events.append)
    assert {arch_id for arch_id, _ in results(store, study).values()} == every
    assert events[-1] == Ended(
        "every valid architecture of tiny that could be found has been evaluated", "finished"
    )
    assert study.state == store.study("toy").state == "finished"


def test_a_longer_budget_goes_on_where_the_shorter_ended(store: Store) -> None:
    expected = search(store, toy.study("nsga2", 60, name="at once"))
    search(store, toy.study("nsga2", 35))
    study = store.update_budget(store.study("toy"), 60, None)
    events: list[engine.Event] = []
    engine.run(study, store, searcher_of(study), local(), on_event=events.append)
    assert results(store, study) == expected
    finished = [e for e in events if isinstance(e, TrialFinished)]
    assert events == [Recovered(35, 0), *finished, Ended("60 trials are done", "finished")]
    assert [e.trial.number for e in finished] == list(range(35, 60))
    assert finished[-1].counts == {"complete": 60}


def test_an_interrupt_stops_the_study_and_the_interrupted_trial_is_evaluated_again(store: Store) -> None:
    expected = search(store, toy.study("nsga2", 30, name="undisturbed"))
    evaluated = 0

    def interrupted(arch: ArchSpec) -> dict[str, float]:
        nonlocal evaluated
        evaluated += 1
        if evaluated == 12:
            raise KeyboardInterrupt
        return toy.judge(arch)

    study = store.create_study(toy.study("nsga2", 30))
    study = engine.run(study, store, searcher_of(study), LocalRunner(interrupted, toy.OBJECTIVES))
    assert study.state == store.study("toy").state == "stopped"
    assert [t.number for t in store.trials(study, states=["running"])] == [11]
    study = engine.run(study, store, searcher_of(study), local())
    assert study.state == "finished"
    assert results(store, study) == expected


def test_the_time_allowed_ends_a_search_that_can_go_on(store: Store) -> None:
    study = store.create_study(toy.study(max_trials=5, max_seconds=0.0))
    events: list[engine.Event] = []
    study = engine.run(study, store, searcher_of(study), local(), on_event=events.append)
    assert events == [Ended("0 s are over", "stopped")]
    study = store.update_budget(study, 5, None)
    assert engine.run(study, store, searcher_of(study), local()).state == "finished"
    assert len(store.trials(study)) == 5


def test_trials_that_fail_do_not_stop_the_study(store: Store) -> None:
    archs = {n: arch_id for n, (arch_id, _) in search(store, toy.study(max_trials=20, name="sound")).items()}
    faults = {archs[3]: "nan", archs[5]: "memory", archs[8]: "kill", archs[11]: "exit"}
    study = store.create_study(toy.study(max_trials=20))
    with closing(make_runner(2, faults=faults)) as pool:
        engine.run(study, store, searcher_of(study), pool)
    failed = {t.number: t.error for t in store.trials(study, states=["failed"])}
    assert failed == {
        3: "loss is nan",
        5: "out of memory: no room for the activations",
        8: "worker process ended with signal 9 (SIGKILL, typical of a system that runs out of memory)",
        11: "worker process ended with exit status 3",
    }
    assert len(store.trials(study, states=["complete"])) == 16


def test_a_full_disk_ends_the_search_and_leaves_it_resumable(store: Store, tmp_path: Path) -> None:
    expected = search(store, toy.study("nsga2", 80, name="undisturbed"))
    url = f"sqlite:///{tmp_path}/small.db"
    small = Store(url, Patience(0.0))
    study = small.create_study(toy.study("nsga2", 80))
    with small.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit = f"PRAGMA max_page_count = {pages + 8}"
    event.listen(small.engine, "connect", lambda connection, _: connection.execute(limit))
    small.engine.dispose()
    with closing(small), pytest.raises(StoreError, match="full disk"):
        engine.run(study, small, searcher_of(study), local())

    with closing(Store(url)) as lifted:
        kept = len(lifted.trials(study, states=["complete"]))
        assert 0 < kept < 80
        assert engine.run(study, lifted, searcher_of(study), local()).state == "finished"
        assert results(lifted, study) == expected


@pytest.mark.parametrize("searcher", ["random", "nsga2"])
def test_a_study_does_not_go_on_with_a_searcher_that_proposes_otherwise(store: Store, searcher: str) -> None:
    search(store, toy.study(searcher, 50))
    study = store.update_budget(store.study("toy"), 60, None)
    other = searcher_of(replace(study, seed=8))
    with pytest.raises(UsageError, match=r"has changed since it began, first noticed at trial \d+"):
        engine.run(study, store, other, local())


def test_a_study_does_not_go_on_where_the_searcher_arrives_at_another_state(store: Store) -> None:
    search(store, toy.study("nsga2", 50))
    study = store.update_budget(store.study("toy"), 60, None)
    saved = store.searcher_state(study)
    assert saved is not None
    store.finish_trials(study, [], saved | {"population": saved["population"][1:]})
    with pytest.raises(UsageError, match="the searcher reaches another state"):
        engine.run(study, store, searcher_of(study), local())


def test_a_study_does_not_go_on_in_a_space_that_lacks_its_architectures(store: Store) -> None:
    search(store, toy.study("random", 20))
    study = store.update_budget(store.study("toy"), 30, None)
    narrow = Problem(
        Encoding(SpaceSpec.from_json(toy.tiny_space().to_json())), 2, study.seed, lambda arch: None
    )
    with pytest.raises(UsageError, match="has changed since it began"):
        engine.run(study, store, RandomSearcher(narrow), local())


def test_one_driver_at_a_time(store: Store) -> None:
    study = store.create_study(toy.study(max_trials=3))
    with (
        Lease(store, study),
        pytest.raises(UsageError, match="'toy' is driven by another process"),
    ):
        engine.run(study, store, searcher_of(study), local())
    assert engine.run(study, store, searcher_of(study), local()).state == "finished"


def test_a_lease_outlives_its_driver_only_where_its_death_cannot_be_seen(store: Store) -> None:
    study = store.create_study(toy.study(max_trials=3))
    host = socket.gethostname()

    def is_refused(owner: str) -> bool:
        assert store.acquire_lease(study, owner, 60.0)
        try:
            engine.run(study, store, searcher_of(study), local())
        except UsageError as error:
            assert owner in str(error)  # noqa: PT017
            return True
        finally:
            store.release_lease(study, owner)
        return False

    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_refused(f"{host}:{other.pid}:0")
    other.communicate()
    assert not is_refused(f"{host}:{other.pid}:0")
    assert is_refused(f"elsewhere:{other.pid}:0")


def test_a_driver_that_lost_its_lease_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    study = store.create_study(toy.study(max_trials=500))

    def taken_over(arch: ArchSpec) -> dict[str, float]:
        running = store.trials(study, states=["running"])[0]
        if running.number == 5:
            assert store.release_lease(study, running.worker)
        time.sleep(0.002)
        return toy.judge(arch)

    with pytest.raises(LeaseLost, match="taken over by another process"):
        engine.run(study, store, searcher_of(study), LocalRunner(taken_over, toy.OBJECTIVES))
