"""What the engine asks of whatever evaluates trials."""

from __future__ import annotations

from typing import Protocol

from studies.records import Outcome, Trial

IN_FLIGHT = 2  # trials that a worker of a cluster holds: one while it evaluates another


class Runner(Protocol):
    """Every trial submitted gives exactly one outcome, in any order, also where its worker died.

    Such a trial is given to another worker once; where that one dies too, it has failed.
    """

    @property
    def through_database(self) -> bool:
        """Whether workers find trials in the database, as waiting ones, and write their outcomes themselves."""

    @property
    def capacity(self) -> int:
        """How many trials may be submitted and not yet returned."""

    def submit(self, trial: Trial) -> None:
        """Start a trial, or keep it until a worker is free."""

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        """Block until at least one submitted trial has ended, or the time is over where the runner can tell."""

    def close(self) -> None:
        """Drop what is in flight and end the workers."""
