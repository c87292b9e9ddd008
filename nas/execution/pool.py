"""A runner with worker processes on this machine; a process that dies is replaced and costs at most its trial."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nas.errors import UsageError
from nas.execution.worker import EvaluatorSpec, serve
from nas.machine import num_cores
from studies.records import Objective, Outcome, Trial, TrialState

_SPAWN = multiprocessing.get_context(
    "spawn"
)  # a fork would copy torch's threads and locks in an arbitrary state
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Worker:
    name: str
    process: BaseProcess
    pipe: Connection
    is_ready: bool = False
    trial: Trial | None = None

    @property
    def is_free(self) -> bool:
        return self.is_ready and self.trial is None


class PoolRunner:
    through_database = False

    def __init__(self, spec: EvaluatorSpec, objectives: Sequence[Objective], num_workers: int) -> None:
        if num_workers < 1:
            raise UsageError(f"a pool needs at least 1 worker, got {num_workers}")
        self.capacity = num_workers
        self._spec = spec
        self._arguments = json.dumps(asdict(spec)), json.dumps([o.to_json() for o in objectives])
        self._waiting: deque[Trial] = deque()
        self._bereaved: set[int] = set()  # trials whose worker died once
        self._workers = [self._start(f"worker-{i}") for i in range(num_workers)]

    def submit(self, trial: Trial) -> None:
        self._waiting.append(trial)
        self._hand_out()

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        """At least one outcome; none if the timeout passed first. Raises UsageError if the evaluator can't start."""
        outcomes: list[Outcome] = []
        while not outcomes:
            ready = wait([w.pipe for w in self._workers], timeout_seconds)
            if not ready:
                break
            for worker in [w for w in self._workers if w.pipe in ready]:
                outcomes += self._receive(worker)
            self._hand_out()
        return outcomes

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
            worker.pipe.close()
        self._workers.clear()

    def _start(self, name: str) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=serve, args=(theirs, name, *self._arguments), daemon=True)
        with _environment(_threads_per_worker(self.capacity)):
            process.start()
        theirs.close()  # so that the pipe ends when the worker dies
        return _Worker(name, process, ours)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.is_free:
                trial = self._waiting[0]
                try:
                    message = {"number": trial.number, "arch": trial.arch, "fidelity": trial.fidelity}
                    worker.pipe.send_bytes(json.dumps(message).encode())
                except OSError:
                    continue  # the worker died while idle; its pipe has ended, so `wait` replaces it
                worker.trial = self._waiting.popleft()

    def _receive(self, worker: _Worker) -> list[Outcome]:
        try:
            message: dict[str, Any] = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            return self._bury(worker)
        if "error" in message and "number" not in message:
            raise UsageError(f"evaluator {self._spec.target!r} can't start: {message['error']}")
        if not worker.is_ready:
            worker.is_ready = True
            return []
        worker.trial = None
        return [Outcome(**message)]

    def _bury(self, worker: _Worker) -> list[Outcome]:
        """Replace a dead worker and retry its trial, which fails if it loses a second worker."""
        worker.process.join()
        how = _how_it_ended(worker.process.exitcode)
        worker.process.close()
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start(worker.name)
        if not worker.is_ready:
            raise UsageError(f"evaluator {self._spec.target!r} can't start: its {how}")
        if worker.trial is None:
            return []
        number = worker.trial.number
        if number not in self._bereaved:
            self._bereaved.add(number)
            self._waiting.appendleft(worker.trial)
            return []
        return [Outcome(number, TrialState.FAILED, error=how, worker=worker.name)]


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"worker process ended with exit status {exit_code}"
    hint = ", typical of a system that runs out of memory" if -exit_code == signal.SIGKILL else ""
    return f"worker process ended with signal {-exit_code} ({signal.Signals(-exit_code).name}{hint})"


def _threads_per_worker(num_workers: int) -> dict[str, str]:
    threads = max(1, num_cores() // num_workers)
    return dict.fromkeys(_THREADS, str(threads))


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables temporarily: a child must start with them, since libraries read them on import."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
