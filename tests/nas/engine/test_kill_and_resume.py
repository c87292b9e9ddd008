"""A search that is killed again and again does what it would have done undisturbed, and nothing twice."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pytest

from nas import engine
from nas.searchers.registry import SEARCHERS
from studies.records import Trial
from studies.store import Store
from tests.nas.engine import drive
from tests.nas.searchers.explore import HERE

NUM_TRIALS = {"gp": 32}  # a proposal of its model takes seconds: it makes the last eight
MAX_TRIALS = 90  # of the others
SLEEP_MS = 3.0
PATIENCE_SECONDS = 120  # for the next evaluation to begin


class Driver(Protocol):
    """A process that runs the study."""

    def kill(self) -> None: ...

    def wait(self) -> str:
        """Until it has ended; "" or what it wrote as it failed."""

    def has_ended(self) -> bool: ...


class FreshProcess:
    """A new interpreter, with other hashes of strings; starting takes a second."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, drive.__file__, *map(str, arguments)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.kill = self._process.kill

    def wait(self) -> str:
        _, errors = self._process.communicate()
        return errors if self._process.returncode > 0 else ""

    def has_ended(self) -> bool:
        return self._process.poll() is not None


class ForkedProcess:
    """A copy of this one, which has imported everything; for many kills."""

    def __init__(self, *arguments: object) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=drive.drive, args=arguments)
        self._process.start()
        self.kill = self._process.kill

    def wait(self) -> str:
        self._process.join()
        return f"exit status {self._process.exitcode}" if (self._process.exitcode or 0) > 0 else ""

    def has_ended(self) -> bool:
        return not self._process.is_alive()


def judged(trial: Trial) -> str:
    """The architecture and how it was judged: what `toy.evaluator` notes."""
    return trial.arch_id + trial.fidelity


def undisturbed(folder: Path, searcher: str) -> dict[int, tuple[str, dict[str, float]]]:
    store = Store(f"sqlite:///{folder}/undisturbed.db")
    study = store.create_study(drive.study_of(searcher, NUM_TRIALS.get(searcher, MAX_TRIALS)))
    with closing(drive.make_runner(0)) as runner:
        engine.run(study, store, drive.searcher_of(study), runner)
    results = {t.number: (judged(t), t.values) for t in store.trials(study)}
    store.close()
    return results


def finished(url: str) -> set[str]:
    """Of the study that the killed process may not have come to create."""
    store = Store(url)
    try:
        studies = [store.study(s.name) for s in store.studies()]
        return {judged(t) for study in studies for t in store.trials(study) if t.is_finished}
    finally:
        store.close()


def evaluations(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def await_evaluations(driver: Driver, log: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(set(evaluations(log))) < count:
        assert not driver.has_ended(), driver.wait() or "it ended before the kill"
        assert time.monotonic() < deadline, f"{len(set(evaluations(log)))} of {count} evaluations have begun"
        time.sleep(0.001)


def cases() -> list[Any]:
    """(searcher, workers, kills, fresh): every searcher is killed a dozen times, a few in new interpreters."""
    quick = [("random", 0, 3, True), ("nsga2", 2, 3, True)]
    quick += [
        (name, 0, 4, False)
        for name in ("evolution", "local", "generative", "shrink", "halving", "nsga3", "optuna-nsga3")
    ]
    slow = [*((name, 0, 12, False) for name in HERE), ("nsga2", 2, 6, True)]
    return [*quick, *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("searcher", "num_workers", "num_kills", "fresh"), cases())
def test_kills_at_random_moments_change_nothing(
    searcher: str, num_workers: int, num_kills: int, fresh: bool, tmp_path: Path
) -> None:
    import_module(SEARCHERS[searcher].module)  # before the process is copied
    num_trials = NUM_TRIALS.get(searcher, MAX_TRIALS)
    expected = undisturbed(tmp_path, searcher)
    url, log = f"sqlite:///{tmp_path}/killed.db", tmp_path / "evaluations.log"
    start = FreshProcess if fresh else ForkedProcess
    arguments = url, searcher, num_workers, num_trials, SLEEP_MS, str(log)
    rng = random.Random(num_kills)
    # some while it starts, the others when that many evaluations have begun
    moments = [None] * (num_kills // 4 + 1)
    # the last while a third is left: what is left of a fast searcher is over before a busy machine gets to the kill
    latest = num_trials - 5 if searcher in NUM_TRIALS else num_trials * 2 // 3
    moments += sorted(rng.sample(range(1, latest), num_kills - len(moments)))  # type: ignore[arg-type]

    for moment in moments:
        recorded = finished(url)
        already = len(evaluations(log))
        driver: Driver = start(*arguments)
        if moment is None:
            time.sleep(rng.uniform(0.0, 1.0 if fresh else 0.05))
        else:
            await_evaluations(driver, log, moment)
            time.sleep(rng.uniform(0.0, 2 * SLEEP_MS / 1e3))
        driver.kill()
        assert driver.wait() == ""
        assert not recorded & set(evaluations(log)[already:])
        assert recorded <= finished(url)

    recorded, already = finished(url), len(evaluations(log))
    assert len(recorded) < num_trials  # the last kill came before the end
    # a new interpreter: with other hashes of strings than those that proposed so far
    assert FreshProcess(*arguments).wait() == ""
    assert not recorded & set(evaluations(log)[already:])

    store = Store(url)
    study = store.study("toy")
    trials = store.trials(study)
    store.close()
    assert study.state == "finished"
    assert [t.number for t in trials] == list(range(num_trials))
    assert all(t.state == ("pruned" if t.fidelity else "complete") for t in trials)
    assert {t.number: (judged(t), t.values) for t in trials} == expected
    # only what was in flight at a kill was begun again: at most one trial per worker and kill
    again = sum(n - 1 for n in Counter(evaluations(log)).values())
    assert again <= num_kills * max(1, num_workers)
