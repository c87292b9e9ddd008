"""A runner that evaluates trials in this process, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nas.execution.outcome import Evaluate, evaluate_trial
from studies.records import Objective, Outcome, Trial


class LocalRunner:
    capacity = 1
    through_database = False

    def __init__(self, evaluate: Evaluate, objectives: Sequence[Objective]) -> None:
        self._evaluate = evaluate
        self._objectives = tuple(objectives)
        self._submitted: deque[Trial] = deque()

    def submit(self, trial: Trial) -> None:
        self._submitted.append(trial)

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        return [evaluate_trial(self._evaluate, self._submitted.popleft(), self._objectives, "local")]

    def close(self) -> None:
        self._submitted.clear()
