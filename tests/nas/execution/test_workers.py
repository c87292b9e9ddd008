"""A driver and workers that know of each other by the database alone; workers and servers that go away in between."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import nas
from nas import engine
from nas.errors import UsageError
from nas.execution import database
from nas.execution.database import DatabaseRunner
from nas.execution.local import LocalRunner
from nas.execution.progress import Progress
from nas.request.recipe import load_recipe
from nas.setup.plan import plan
from nas.workers import worker
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec
from studies.queue import Queue
from studies.records import Study, Trial
from studies.store import Store
from studies.workers import workers
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of
from tests.postgres import Server

# evaluates in the process itself, at a heartbeat that suits a test
WORKER = """
import sys
from nas.workers import worker
from studies.store import Store
worker.HEARTBEAT_SECONDS = 0.1
worker.work(Store(sys.argv[1]), evaluate=sys.argv[2], idle_seconds=float(sys.argv[3]))
"""


def slow(arch: ArchSpec) -> dict[str, float]:
    time.sleep(0.05)
    return toy.judge(arch)


def start_worker(
    url: str, evaluate: str = "tests.nas.engine.toy:judge", idle: float = 3
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, evaluate, str(idle)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def new_study(store: Store, count: int = 30) -> Study:
    return store.create_study(replace(toy.study("nsga2", count), quality="user"))


def drive(url: str, study: Study) -> None:
    with closing(Store(url)) as store:
        engine.run(study, store, searcher_of(study), DatabaseRunner(store, study))


def expected(tmp_path: Path, count: int = 30) -> list[tuple[str, dict[str, float]]]:
    with closing(Store(f"sqlite:///{tmp_path}/undisturbed.db")) as store:
        study = new_study(store, count)
        engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
        return [(t.arch_id, t.values) for t in store.trials(study)]


def results(store: Store, study: Study) -> list[tuple[str, dict[str, float]]]:
    trials = store.trials(study)
    assert [(t.number, t.state) for t in trials] == [(n, "complete") for n in range(len(trials))]
    return [(t.arch_id, t.values) for t in trials]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_completed(store: Store, study: Study, count: int) -> bool:
    return len(store.trials(study, states=["complete"])) >= count


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_workers_find_what_one_process_alone_finds(url: str, tmp_path: Path) -> None:
    with closing(Store(url)) as store:
        study = new_study(store)
        with running(start_worker(url)), running(start_worker(url)):
            drive(url, study)
        assert results(store, study) == expected(tmp_path)
        assert store.study("toy").state == "finished"


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_goes_to_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "DEAD_AFTER_SECONDS", 1.0)
    monkeypatch.setattr(database, "HEARTBEAT_SECONDS", 0.1)
    with closing(Store(url)) as store:
        study = new_study(store, 12)
        driver = threading.Thread(target=drive, args=(url, study))
        driver.start()
        with running(start_worker(url, f"{__name__}:slow")) as first:
            wait_until(partial(has_completed, store, study, 3))
            first.kill()
            first.wait()
        killed = store.trials(study, states=["running"])
        with running(start_worker(url)):
            driver.join()
        assert len(results(store, study)) == 12
        for trial in killed:
            assert store.trial(study, trial.number).worker != trial.worker


def test_a_driver_that_is_gone_loses_nothing_that_its_workers_finish(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    with closing(Store(url)) as store:
        study = new_study(store)
        runner = DatabaseRunner(store, study)
        search = engine._Search(study, store, searcher_of(study), runner, _Held(store, study), print)  # type: ignore[arg-type]
        search.recover()
        search.fill()
        waiting = len(store.trials(study, states=["waiting"]))
        assert waiting == study.lag + 1
        assert worker.work(store, evaluate="tests.nas.engine.toy:judge", idle_seconds=0.5) == waiting
        store.release_lease(study, "gone")
        with running(start_worker(url)):
            drive(url, study)
        assert results(store, study) == expected(tmp_path)
        assert max(Counter(t.arch_id for t in store.trials(study)).values()) == 1


class _Held:
    """The lease of a driver that ends without giving it back."""

    def __init__(self, store: Store, study: Study) -> None:
        self.owner, self.control, self.progress = "gone", "", Progress()
        store.acquire_lease(study, self.owner, 60)


@pytest.mark.slow
def test_the_built_in_judge_is_built_from_the_record_of_the_study(tmp_path: Path) -> None:
    def search(name: str, runner: str) -> list[tuple[str, dict[str, float]]]:
        url = f"sqlite:///{tmp_path}/{name}.db"
        found = nas.search(
            space="tiny-lm",
            objectives=["memory", "flops"],
            trials=12,
            searcher="random",
            db=url,
            runner=runner,
        )
        return [(t.arch_id, t.values) for t in found.trials]

    expected = search("local", "local")
    with ThreadPoolExecutor() as pool:
        driver = pool.submit(search, "workers", "workers")
        wait_until((tmp_path / "workers.db").exists)
        with closing(Store(f"sqlite:///{tmp_path}/workers.db")) as store:
            worker.work(store, idle_seconds=3.0)
        assert driver.result() == expected


def test_a_worker_that_is_stopped_gives_its_trials_back(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as store:
        study = new_study(store)
        store.add_trials(study, [Trial(n, {}, f"a{n}") for n in range(2)])

        def stop(served: worker.Served) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            worker.work(store, evaluate="tests.nas.engine.toy:judge", on_trial=stop, workers=2)
        states = sorted(t.state for t in store.trials(study))
        assert states in (["failed", "failed"], ["failed", "waiting"])  # `{}` is no architecture


def test_a_worker_says_what_it_lacks_to_judge_a_study(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as store:
        study = new_study(store)
        store.add_trials(study, [Trial(0, {}, "a0")])
        with pytest.raises(
            UsageError, match="'toy' is judged by a user-defined function: name it with --evaluate"
        ):
            worker.work(store)
        with pytest.raises(UsageError, match="is judged by a user-defined function"):
            worker.work(store, study="toy")
        assert Queue(store, study).claim("other") is not None


def test_a_worker_passes_over_a_study_that_it_cannot_judge_and_goes_on_with_the_others(
    tmp_path: Path,
) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as store:
        theirs = store.create_study(replace(toy.study("random", 1), quality="user", priority=5))
        recipe = load_recipe("tiny-lm").changed(trials=2)
        ours = store.create_study(plan(load_space("tiny-lm"), recipe, ["parameters", "flops"], name="ours"))
        store.add_trials(theirs, [Trial(0, {}, "a0")])
        store.add_trials(ours, [Trial(0, {}, "a0"), Trial(1, {}, "a1")])
        served: list[str] = []
        passed: list[str] = []
        there: set[str] = set()
        count = worker.work(
            store,
            idle_seconds=0.5,
            on_study=lambda s: served.append(s.name),
            on_trial=lambda served: there.update(w.study for w in workers(store)),
            on_passed=passed.append,
        )
        assert (count, served) == (2, ["ours"])
        assert there == {"ours"}
        assert workers(store) == []
        [reason] = passed
        assert "study 'toy' is judged by a user-defined function" in reason
        assert len(store.trials(theirs, states=["waiting"])) == 1


@pytest.mark.slow
@pytest.mark.postgres
def test_a_server_that_restarts_in_the_middle_of_a_study_loses_and_doubles_nothing(tmp_path: Path) -> None:
    server = Server()
    try:
        with closing(Store(server.url)) as store:
            study = new_study(store, 60)
            driver = threading.Thread(target=drive, args=(server.url, study))
            driver.start()
            with running(start_worker(server.url, f"{__name__}:slow", idle=30)):
                for done in (10, 30):
                    wait_until(partial(has_completed, store, study, done))
                    server.stop()
                    time.sleep(0.5)
                    server.start()
                driver.join()
            assert results(store, study) == expected(tmp_path, 60)
    finally:
        server.remove()


@pytest.mark.slow
@pytest.mark.postgres
def test_drivers_that_contend_for_one_lease_lose_and_double_nothing(
    new_postgres_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_postgres_database()
    log = tmp_path / "evaluations.log"
    with closing(Store(url)) as store:
        study = store.create_study(toy.study("nsga2", 60))
        script = (
            "import sys, time\n"
            "from contextlib import closing\n"
            "from nas import engine\n"
            "from nas.errors import UsageError\n"
            "from studies.store import Store\n"
            "from tests.nas.engine.drive import make_runner, searcher_of\n"
            "store = Store(sys.argv[1])\n"
            "while (study := store.study('toy')).state != 'finished':\n"
            "    try:\n"
            "        engine.run(study, store, searcher_of(study), make_runner(0, log=sys.argv[2], sleep_ms=20))\n"
            "    except UsageError as error:\n"
            "        assert 'is driven by another process' in str(error), error\n"
            "        time.sleep(0.01)\n"
        )
        command = [sys.executable, "-c", script, url, str(log)]
        drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        wait_until(partial(has_completed, store, study, 15))
        holder = int((store.lease_owner(study) or "").split(":")[1])
        [killed] = [d for d in drivers if d.pid == holder]
        [other] = [d for d in drivers if d.pid != holder]
        killed.kill()
        killed.communicate()
        _, errors = other.communicate(timeout=100)
        assert (other.returncode, errors) == (0, "")
        assert results(store, study) == expected(tmp_path, 60)
    evaluated = Counter(log.read_text().split())
    assert len(evaluated) == 60
    assert sum(evaluated.values()) <= 61  # the killed driver's last trial was begun again
