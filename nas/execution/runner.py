"""The interface between the engine and the code that evaluates trials."""

from __future__ import annotations

from typing import Protocol

from studies.records import Outcome, Trial

IN_FLIGHT = 2  # trials that a worker of a cluster holds: one while it evaluates another


class Runner(Protocol):
    """Returns exactly one outcome for every submitted trial, in any order.

    A trial whose worker died is given to another worker once; if that one dies too, the trial has failed.
    """

    @property
    def through_database(self) -> bool:
        """Whether workers read waiting trials from the database and write their outcomes to it themselves."""

    @property
    def capacity(self) -> int:
        """The maximum number of trials that are submitted and not yet returned."""

    def submit(self, trial: Trial) -> None:
        """Start a trial, or queue it until a worker is free."""

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        """Block until a submitted trial has ended or, if the runner supports it, until the timeout; return outcomes."""

    def close(self) -> None:
        """Drop trials in flight and end the workers."""
