"""Progress of a study's driver: its current activity, how much is done, and the estimated remaining time."""

from __future__ import annotations

import threading
import time
from typing import Any


class Progress:
    """Progress that the working thread writes and the lease's thread reads and stores in the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what, self._text = "", ""
        self._done = self._total = 0.0
        self._started_at, self._done_at_start = 0.0, 0.0

    def advance(self, what: str, done: float, total: float, text: str = "") -> None:
        """Record that `done` of `total` units of the activity `what` are done; a new `what` restarts its timer."""
        with self._lock:
            if what != self._what:
                self._what, self._started_at, self._done_at_start = what, time.monotonic(), done
            self._done, self._total, self._text = done, total, text

    def to_json(self) -> dict[str, Any]:
        """{what, text, done, total, seconds, eta_seconds}; {} before the first activity.

        `seconds` counts from the start of the activity in this process. `eta_seconds` extrapolates the pace since then;
        it is None as long as nothing was done.
        """
        with self._lock:
            if not self._what:
                return {}
            seconds = time.monotonic() - self._started_at
            done_here = self._done - self._done_at_start
            eta = seconds * (self._total - self._done) / done_here if done_here > 0 else None
            return {
                "what": self._what,
                "text": self._text,
                "done": int(self._done),
                "total": int(self._total),
                "seconds": seconds,
                "eta_seconds": eta,
            }
