"""How far the driver of a study has come: what it does, how much of that is done, and when it will be over."""

from __future__ import annotations

import threading
import time
from typing import Any


class Progress:
    """Written by the thread that works, read by the one that tells the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what, self._text = "", ""
        self._done = self._total = 0.0
        self._started_at, self._done_at_start = 0.0, 0.0

    def advance(self, what: str, done: float, total: float, text: str = "") -> None:
        """`done` of `total` of `what`; a new `what` starts the time anew."""
        with self._lock:
            if what != self._what:
                self._what, self._started_at, self._done_at_start = what, time.monotonic(), done
            self._done, self._total, self._text = done, total, text

    def to_json(self) -> dict[str, Any]:
        """{what, text, done, total, seconds, eta_seconds}; {} where nothing is being done.

        `seconds` are those since this began here. `eta_seconds` supposes that the rest goes as fast as what has been
        done since; it is None where nothing has.
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
