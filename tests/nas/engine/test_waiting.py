"""What may pass by itself, a lock, a full disk, a server that restarts, costs a study time and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nas import engine
from nas.execution import lease
from nas.execution.local import LocalRunner
from nas.execution.outcome import evaluate_trial
from nas.workers import worker
from searchspace.spec.arch import ArchSpec
from studies.errors import StoreUnavailable
from studies.patience import Patience
from studies.records import Study, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of
from tests.postgres import Server

AT = 5  # evaluations after which it happens
TRIALS = 12
LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
input()
connection.execute("ROLLBACK")
"""


class Lock:
    """The write lock of a database, held by another process from `take` until `release`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[str] | None = None

    def take(self) -> None:
        command = [sys.executable, "-c", LOCK, str(self._path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "locked\n"

    def release(self) -> None:
        assert self._process is not None
        self._process.communicate("\n")


class FullDisk:
    """A small file system of its own, which `take` fills and `release` empties."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def take(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017

    def release(self) -> None:
        self._filler.unlink()


class Waits:
    """What was said while something was waited for; the first time it comes about."""

    def __init__(self, release: Callable[[], None]) -> None:
        self.said: list[str] = []
        self._release = release

    def __call__(self, reason: str) -> None:
        self.said.append(reason)
        if len(self.said) == 1:
            self._release()


def judge_that(take: Callable[[], None]) -> Callable[[ArchSpec], dict[str, float]]:
    calls = 0

    def judge(arch: ArchSpec) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == AT:
            take()
        return toy.judge(arch)

    return judge


def results(store: Store, study: Study) -> list[tuple[str, dict[str, float]]]:
    return [(t.arch_id, t.values) for t in store.trials(study, states=["complete"])]


@pytest.fixture
def expected(tmp_path: Path) -> list[tuple[str, dict[str, float]]]:
    with closing(Store(f"sqlite:///{tmp_path}/undisturbed.db")) as store:
        study = store.create_study(toy.study("nsga2", TRIALS))
        engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
        return results(store, study)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system of its own can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def search(url: str, take: Callable[[], None], release: Callable[[], None]) -> tuple[list[str], object]:
    """(what was said, the results) of a study in whose midst `take` is called, and `release` once it waits."""
    waits = Waits(release)
    with closing(Store(url, Patience.endless(waits, lock_seconds=0.05))) as store:
        study = store.create_study(toy.study("nsga2", TRIALS))
        study = engine.run(study, store, searcher_of(study), LocalRunner(judge_that(take), toy.OBJECTIVES))
        assert study.state == store.study("toy").state == "finished"
        return waits.said, results(store, study)


def test_a_study_goes_on_when_a_lock_is_released(tmp_path: Path, expected: object) -> None:
    lock = Lock(tmp_path / "nas.db")
    said, found = search(f"sqlite:///{tmp_path}/nas.db", lock.take, lock.release)
    assert found == expected
    assert "waiting for the database" in said[0]
    assert "locked by another process" in said[0]
    assert said[-1] == ""


def test_a_study_goes_on_when_a_full_disk_has_room(small_disk: Path, expected: object) -> None:
    disk = FullDisk(small_disk)
    said, found = search(f"sqlite:///{small_disk}/nas.db", disk.take, disk.release)
    assert found == expected
    assert "waiting for the database" in said[0]
    assert said[-1] == ""


@pytest.mark.slow
@pytest.mark.postgres
def test_a_study_goes_on_when_its_server_is_started_again(expected: object) -> None:
    server = Server()
    try:
        said, found = search(server.url, server.stop, server.start)
    finally:
        server.remove()
    assert found == expected
    assert "waiting for the database" in said[0]


def test_an_interrupt_ends_the_waiting_and_the_study_can_be_gone_on_with(
    tmp_path: Path, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 60.0)
    url, lock = f"sqlite:///{tmp_path}/nas.db", Lock(tmp_path / "nas.db")
    # a program that was started in the background ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(StoreUnavailable, match="locked"):
            search(url, lock.take, lambda: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    lock.release()
    with closing(Store(url)) as store:
        study = store.study("toy")
        engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
        assert results(store, study) == expected


def test_a_worker_delivers_when_a_lock_is_released(tmp_path: Path) -> None:
    path = tmp_path / "nas.db"
    lock = Lock(path)
    waits = Waits(lock.release)
    with closing(Store(f"sqlite:///{path}", Patience.endless(waits, lock_seconds=0.05))) as store:
        study = store.create_study(toy.study(quality="user"))
        archs = [ArchSpec.from_json(a) for a in _archs(study, 2)]
        store.add_trials(study, [Trial(n, arch.to_json(), arch.id) for n, arch in enumerate(archs)])
        count = worker.work(
            store,
            evaluate="tests.nas.engine.toy:judge",
            idle_seconds=0.2,
            on_study=lambda study: lock.take(),
        )
        assert count == len(store.trials(study, states=["complete"])) == 2
    assert "locked" in waits.said[0]


def _archs(study: Study, count: int) -> list[dict[str, object]]:
    searcher = searcher_of(study)
    return [searcher.ask(n).arch.to_json() for n in range(count)]


def test_a_judge_that_finds_no_room_is_called_again() -> None:
    calls = 0

    def judge(arch: ArchSpec) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return toy.judge(arch)

    trial = Trial(0, _archs(toy.study(), 1)[0], "a")
    assert evaluate_trial(judge, trial, toy.OBJECTIVES).state == "complete"
