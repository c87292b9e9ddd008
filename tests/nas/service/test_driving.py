"""Queued studies and the workers that take them: start, pause, continue, priority, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nas.request.recipe import load_recipe
from nas.setup.plan import plan
from nas.workers.child import Child
from searchspace.load import load_space
from studies.control import change, to_run
from studies.queue import Queue, studies_with_waiting_trials
from studies.records import Outcome, Study, Trial
from studies.store import Store
from tests.nas.engine import toy

LONG = 300  # trials; a study of few is over before its pause is noticed


def queue(store: Store, name: str, trials: int = 12, priority: int = 0) -> Study:
    """Costs alone: nothing is trained or measured, and a study takes as long as its processes take to start."""
    recipe = load_recipe("tiny-lm").changed(trials=trials, lag=4)
    planned = plan(load_space("tiny-lm"), recipe, ["parameters", "flops"], name=name)
    return store.create_study(replace(planned, state="queued", control="run", priority=priority))


@contextmanager
def worker(url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "nas.cli.main", "worker", "--db", url])
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(timeout=60)


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_studies_are_driven_by_priority_then_age_and_only_those_that_are_to_run(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as store:
        for name, control, priority in (("a", "run", 0), ("b", "run", 5), ("c", "run", 0), ("d", "pause", 9)):
            study = toy.study("random", 1, name=name, state="queued", control=control, priority=priority)
            store.create_study(study)
        store.create_study(toy.study("random", 1, name="by hand"))
        assert [c.name for c in to_run(store)] == ["b", "a", "c"]
        change(store, store.study("b"), state="finished")
        change(store, store.study("a"), control="stop")
        assert [c.name for c in to_run(store)] == ["c"]


def test_trials_of_a_paused_study_are_not_claimed_and_higher_priorities_come_first(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/nas.db")) as store:
        low, high = (store.create_study(toy.study("random", 2, name=n)) for n in ("low", "high"))
        for study in (low, high):
            store.add_trials(study, [Trial(0, {}, "a0"), Trial(1, {}, "a1")])
        low = change(store, low, control="run")
        assert not Queue(store, low).is_outranked()
        high = change(store, high, control="run", priority=2)
        assert Queue(store, low).is_outranked()
        assert studies_with_waiting_trials(store) == ["high", "low"]
        change(store, high, control="pause")
        assert Queue(store, high).claim("w") is None
        assert studies_with_waiting_trials(store) == ["low"]
        assert not Queue(store, low).is_outranked()
        change(store, high, control="run")
        claimed = Queue(store, high).claim("w")
        assert claimed is not None
        assert Queue(store, high).deliver("w", Outcome(claimed.number, "complete"))


@pytest.mark.parametrize("ending", ["interrupt", "death"])
def test_a_tethered_child_ends_when_its_parent_lets_go_or_dies(tmp_path: Path, ending: str) -> None:
    note = tmp_path / "child.py"
    note.write_text(
        "import os, sys, time\nfrom nas.workers import child\nchild.end_with_parent()\nprint(os.getpid(), flush=True)\n"
        "try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    if ending == "interrupt":
        with closing(Child("child", [], path)) as child:
            wait_until(child.output)
            child.interrupt()
            assert child.wait() == 130
        return
    script = (
        "import time\nfrom nas.workers.child import Child\n"
        "c = Child('child', [], {}, is_seen=True)\ntime.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, **path}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_drives_queued_studies_through_pauses_and_deaths(tmp_path: Path) -> None:
    """What it ends with is what a run that nobody disturbed ends with."""
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        calm = queue(store, "calm", LONG)
        with worker(url):
            wait_until(lambda: store.study("calm").state == "finished")
            wait_until(lambda: store.study("calm").control == "")
        study = queue(store, "rough", LONG)
        with worker(url):
            wait_until(lambda: len(store.trials(study, states=["complete"])) > 2)
            change(store, study, control="pause")
            wait_until(lambda: store.study("rough").state == "stopped")
            wait_until(lambda: len(store.trials(study, states=["running"])) == 0)
            time.sleep(1)
            paused = [t.state for t in store.results(study)]
            time.sleep(1)
            assert [t.state for t in store.results(study)] == paused
            assert paused.count("complete") < LONG
            change(store, study, control="run")
            wait_until(lambda: store.study("rough").state == "running")
        assert store.study("rough").control == "run"  # the worker went, the wish did not
        with worker(url) as killed:
            wait_until(lambda: store.lease_owner(study) is not None)
            killed.kill()
        with worker(url):
            wait_until(lambda: store.study("rough").state == "finished", 200)
        assert [(t.arch_id, t.state) for t in store.trials(study)] == [
            (t.arch_id, t.state) for t in store.trials(calm)
        ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_that_can_not_be_prepared_says_why(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        study = queue(store, "broken")
        recipe = study.settings.recipe | {"searcher": "?"}
        store.set_references(study, settings=replace(study.settings, recipe=recipe))
        change(store, study, searcher="gone")
        with worker(url):
            wait_until(lambda: store.study("broken").state == "failed")
        assert "gone" in store.study("broken").problem
        assert store.study("broken").control == ""
