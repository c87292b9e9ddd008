"""The state and the progress of a study, as command line and service tell them, whoever drives it."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nas.cli import look
from nas.execution.progress import Progress
from nas.service import views
from nas.service.bodies import document, summary
from nas.service.views import StudyViews
from studies.control import drivers, heartbeat
from studies.patience import Patience
from studies.store import Store
from tests.nas.engine import toy

HERE = socket.gethostname()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/nas.db", Patience(0.0, lock_seconds=0.0))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("owner", "seconds", "state"),
    [
        ("elsewhere:1:x", 60, "searching"),
        ("elsewhere:1:x", 40, "waiting for the database"),
        ("elsewhere:1:x", -1, "interrupted"),
        (f"{HERE}:{os.getpid()}:x", 60, "interrupted"),  # held by nobody in this process
        (f"{HERE}:{os.getppid()}:x", -1, "waiting for the database"),
        (None, 0, "interrupted"),
    ],
    ids=[
        "another",
        "silent",
        "over",
        "itself",
        "parent",
        "nobody",
    ],  # no number of a process: each run has its own
)
def test_the_state_of_a_study_tells_whether_its_driver_lives(
    store: Store, owner: str | None, seconds: float, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = store.create_study(toy.study("random", 1))
    if owner is not None:
        assert store.acquire_lease(study, owner, seconds)
    assert document(StudyViews(store).view("toy"))["state"] == state
    [listed] = store.studies()
    assert summary(listed, drivers(store).get("toy"))["state"] == state
    assert look.studies(Namespace(words=[], db=str(store.engine.url), json=True)) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["state"] == state


def test_progress_is_told_for_whoever_drives(store: Store) -> None:
    study = store.create_study(toy.study("random", 1))
    assert document(StudyViews(store).view("toy"))["progress"] is None
    progress = Progress()
    progress.advance("training the supernet", 3, 10, "loss 2.0")
    assert store.acquire_lease(study, "elsewhere:1:x", 60)
    assert heartbeat(store, study, "elsewhere:1:x", 60, progress.to_json()) == ""
    found = document(StudyViews(store).view("toy"))
    assert found["state"] == "preparing"
    told = found["progress"]
    assert [told[n] for n in ("what", "done", "total", "eta_seconds")] == [
        "training the supernet",
        3,
        10,
        None,
    ]
    assert told["seconds"] >= 0
    store.release_lease(study, "elsewhere:1:x")
    assert document(StudyViews(store).view("toy"))["progress"] is None


def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Done before this run says nothing of its pace: 10 of 40 in 5 s leave 60 for 30 s."""
    now = 100.0
    monkeypatch.setattr("nas.execution.progress.time.monotonic", lambda: now)
    progress = Progress()
    progress.advance("searching", 20, 120)
    assert progress.to_json()["eta_seconds"] is None
    now = 105.0
    progress.advance("searching", 30, 90)
    assert (progress.to_json()["seconds"], progress.to_json()["eta_seconds"]) == (5.0, 30.0)


def test_queued_studies_without_a_worker_are_pointed_out(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.create_study(toy.study("random", 1, state="queued", control="run"))
    look.studies(Namespace(words=[], db=str(store.engine.url), json=False))
    assert "no worker is connected" in capsys.readouterr().err


def test_what_was_read_is_shown_while_the_database_is_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "FRESH_SECONDS", 0.0)
    store.create_study(toy.study("random", 1))
    view = StudyViews(store).view("toy")
    store.engine.dispose()
    with closing(sqlite3.connect(tmp_path / "nas.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert document(view.refresh())["state"] == "waiting for the database"
    assert document(view.refresh())["state"] == "interrupted"
