"""A process that evaluates trials, with JSON messages through a pipe.

driver to worker    {"number", "arch", "fidelity"}
worker to driver    {"ready": true} or {"error": why it can't start}; then the outcome of each trial
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from nas.execution.outcome import Evaluate, evaluate_trial
from studies.records import Objective, Trial


@dataclass(frozen=True)
class EvaluatorSpec:
    """Names an evaluator: `target`, package.module:name, is a factory to call with `settings`, or itself if None."""

    target: str
    settings: dict[str, Any] | None = None

    def load(self) -> Evaluate:
        found = self.found()
        evaluate: Evaluate = found if self.settings is None else found(**self.settings)
        return evaluate

    def found(self) -> Any:
        """The object that the target names. Raises ValueError if it can't be imported."""
        module, _, name = self.target.partition(":")
        if not module or not name:
            raise ValueError(f"{self.target}: name a judge as package.module:function")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self.target}: can't be imported ({error}); name a judge as package.module:function"
            ) from error


def serve(pipe: Connection, name: str, spec_json: str, objectives_json: str) -> None:
    """Evaluate until the driver closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read, args=(pipe, messages), daemon=True).start()
    objectives = [Objective.from_json(o) for o in json.loads(objectives_json)]
    try:
        evaluate = EvaluatorSpec(**json.loads(spec_json)).load()
    except Exception as error:
        _send(pipe, {"error": f"{type(error).__name__}: {error}"})
        return
    _send(pipe, {"ready": True})
    while True:
        message = messages.get()
        trial = Trial(message["number"], message["arch"], arch_id="", fidelity=message["fidelity"])
        _send(pipe, asdict(evaluate_trial(evaluate, trial, objectives, name)))


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _read(pipe: Connection, messages: SimpleQueue[Any]) -> None:
    """Put messages on the queue; the end of the pipe ends the process, even during an evaluation."""
    while True:
        try:
            messages.put(json.loads(pipe.recv_bytes()))
        except (EOFError, OSError):
            os._exit(0)
