"""Of several that want to drive a study one does, and what is trained is trained once."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.api import Hooks, Result
from nas.engine import STOPPED
from nas.execution import lease
from nas.execution.lease import LeaseHeld
from nas.request.recipe import Recipe
from nas.setup.preparation import Step
from studies.control import change
from studies.records import Study
from studies.store import Store
from tests.nas.training import toy

SECONDS = 30


class Training:
    """A display that keeps the driver in the training of its supernet until it may go on."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.hooks = Hooks(on_step=self.on_step)

    def on_step(self, step: Step) -> None:
        self.steps.append(step)
        if step.name == "training the supernet" or step.name.startswith("waiting"):
            self.began.set()
            assert self.may_go_on.wait(SECONDS)

    def trained(self) -> list[float]:
        return [s.done for s in self.steps if s.name == "training the supernet"]


@pytest.fixture
def training() -> Iterator[Training]:
    found = Training()
    yield found
    found.may_go_on.set()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)


def search(db: str, name: str, hooks: Hooks, **settings: Any) -> Result:
    """In a space that trains in milliseconds."""
    data = Path(db.removeprefix("sqlite:///")).parent / "text.txt"
    data.write_text("abacadae" * 200)
    training = replace(toy.SETTINGS, steps=3, **settings)
    recipe = Recipe("toy", training=training, trials=2, searcher="random", data=str(data))
    return nas.search(
        space=toy.space(),
        objectives=["loss", "parameters"],
        recipe=recipe,
        study=name,
        db=db,
        runner="local",
        hooks=hooks,
    )


def test_a_second_resume_ends_at_once_with_who_drives_and_nothing_is_trained_twice(
    tmp_path: Path, training: Training
) -> None:
    """Meanwhile the database tells how far the training is."""
    db = f"sqlite:///{tmp_path}/nas.db"
    second = Training()
    with ThreadPoolExecutor(1) as pool, closing(Store(db)) as store:
        driver = pool.submit(search, db, "one", training.hooks)
        assert training.began.wait(SECONDS)
        with pytest.raises(LeaseHeld, match=f"'one' is driven by another process .*:{os.getpid()}:"):
            nas.resume("one", db=db, trials=50, hooks=second.hooks)
        assert second.steps == []
        study = store.study("one")
        assert (study.state, study.problem, study.max_trials) == ("running", "", 2)
        beat = threading.Event()
        while not (progress := store.study("one").progress):
            beat.wait(0.01)
        assert (progress["what"], progress["done"], progress["total"]) == ("training the supernet", 1, 3)
        training.may_go_on.set()
        result = driver.result()
        assert training.trained() == [1, 2, 3]
        assert (result.study.state, len(result.trials)) == ("finished", 2)
        assert store.study("one").progress == {}


def test_two_studies_that_need_the_same_supernet_train_it_once(tmp_path: Path, training: Training) -> None:
    """The second waits where the first trains, and finds it trained."""
    db = f"sqlite:///{tmp_path}/nas.db"
    second = Training()
    second.may_go_on.set()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(search, db, "one", training.hooks)
        assert training.began.wait(SECONDS)
        other = pool.submit(search, db, "two", second.hooks)
        assert second.began.wait(SECONDS)
        training.may_go_on.set()
        supernets = {future.result().study.supernet for future in (first, other)}
    assert (training.trained(), second.trained()) == ([1, 2, 3], [])
    assert len(supernets) == 1


def test_a_study_that_fails_in_its_preparation_says_why_and_can_be_gone_on_with(
    tmp_path: Path, training: Training
) -> None:
    db = f"sqlite:///{tmp_path}/nas.db"

    def fail(step: Step) -> None:
        raise ArithmeticError("no luck")

    with closing(Store(db)) as store:
        with pytest.raises(ArithmeticError):
            search(db, "one", Hooks(on_step=fail))
        study = store.study("one")
        assert (study.state, study.problem) == ("failed", "ArithmeticError: no luck")
        assert store.lease_owner(study) is None
        assert nas.resume("one", db=db, runner="local").study.state == "finished"
        assert store.study("one").problem == ""


def test_an_interrupt_in_the_preparation_stops_the_study(tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        raise KeyboardInterrupt

    result = search(f"sqlite:///{tmp_path}/nas.db", "one", Hooks(on_step=interrupt))
    assert (result.study.state, result.reason, result.trials) == ("stopped", "interrupted", [])


class Wanting:
    """A display at which something is wanted of the study after step 2 of its training, and heard by its driver."""

    def __init__(self, db: str, control: str) -> None:
        self._db, self._control = db, control
        self.steps: list[float] = []

    def on_step(self, step: Step) -> None:
        self.steps.append(step.done)
        if self.steps == [1, 2]:
            with closing(Store(self._db)) as store:
                study = change(store, store.study("one"), control=self._control)
                _await_heartbeats(store, study)


def _await_heartbeats(store: Store, study: Study) -> None:
    """Two that began later than this: what the first of them brought is known to the driver."""
    for _ in range(3):
        before = store.study(study.name).progress
        while store.study(study.name).progress == before:
            time.sleep(0.01)


def test_a_stop_ends_the_preparation_and_what_is_trained_stays(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/nas.db"
    wanting = Wanting(db, "stop")
    result = search(db, "one", Hooks(on_step=wanting.on_step), checkpoint_seconds=0.0)
    assert (result.study.state, result.reason, result.study.control) == ("stopped", STOPPED, "")
    later = Training()
    later.may_go_on.set()
    assert nas.resume("one", db=db, runner="local", hooks=later.hooks).study.state == "finished"
    assert (wanting.steps, later.trained()) == ([1, 2], [3])


def test_a_pause_in_the_preparation_ends_when_the_study_is_wanted_again(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/nas.db"
    wanting = Wanting(db, "pause")
    with ThreadPoolExecutor(1) as pool:
        driver = pool.submit(search, db, "one", Hooks(on_step=wanting.on_step), checkpoint_seconds=0.0)
        with closing(Store(db)) as store:
            while not driver.done() and not _is_paused(store):
                time.sleep(0.01)
            _await_heartbeats(store, store.study("one"))
            assert wanting.steps == [1, 2]
            change(store, store.study("one"), control="run")
        assert driver.result().study.state == "finished"
    assert wanting.steps == [1, 2, 3]
    assert driver.result().study.control == ""


def _is_paused(store: Store) -> bool:
    return any(s.control == "pause" for s in store.studies())


def test_a_preparation_that_finds_no_room_on_the_disk_goes_on_when_there_is(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[float] = []

    def on_step(step: Step) -> None:
        steps.append(step.done)
        if steps == [1, 2]:
            raise OSError(errno.ENOSPC, "No space left on device")

    hooks = Hooks(on_step=on_step, on_wait=said.append)
    result = search(f"sqlite:///{tmp_path}/nas.db", "one", hooks, checkpoint_seconds=0.0)
    assert result.study.state == "finished"
    assert steps == [1, 2, 3]
    assert "waiting for room on the disk" in said[0]
    assert said[-1] == ""
