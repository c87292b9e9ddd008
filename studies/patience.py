"""Retries of what may succeed later: a locked or restarting database, a full disk."""

from __future__ import annotations

import errno
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from studies.errors import StoreUnavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
WENT_ON = "what was waited for is there again"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
OnWait = Callable[[str], None]


def say(reason: str) -> None:
    """Write to the log, for a process without a display."""
    sys.stderr.write(f"{reason or WENT_ON}\n")
    sys.stderr.flush()


class Patience:
    """How long to retry a failure that may be temporary, with pauses that double up to LONGEST_PAUSE.

    `seconds` counts from the first failure. SQLite itself waits `lock_seconds` for a lock, uninterruptibly. `on_wait`
    is called from any thread with the reason for waiting, and with "" when nothing waits any more.
    """

    def __init__(
        self, seconds: float = 30.0, lock_seconds: float = 5.0, on_wait: OnWait = lambda reason: None
    ) -> None:
        self.lock_seconds = lock_seconds
        self._seconds, self._on_wait = seconds, on_wait
        self._lock = threading.Lock()
        self._num_waiting = 0

    @classmethod
    def endless(cls, on_wait: OnWait, lock_seconds: float = 5.0) -> Patience:
        """Patience without a limit, for drivers and workers, which hold work that would be lost."""
        return cls(math.inf, lock_seconds, on_wait)

    def end(self) -> None:
        """Stop all waiting from now on, because the user wants the program to end."""
        self._seconds = 0.0

    def retry(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises what it raises; a temporary error only after the retries have run out."""
        pause, began, waits = FIRST_PAUSE, time.monotonic(), False
        try:
            while True:
                try:
                    return work()
                except OSError as error:
                    if error.errno not in FULL_DISK:
                        raise
                    failed: Exception = error
                    reason = f"waiting for room on the disk: {error}"
                except StoreUnavailable as error:
                    failed, reason = error, f"waiting for the database: {error}"
                if time.monotonic() + pause > began + self._seconds:
                    raise failed
                if not waits:
                    waits = True
                    self._enter(reason)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            if waits:
                self._leave()

    def _enter(self, reason: str) -> None:
        with self._lock:
            self._num_waiting += 1
            is_first = self._num_waiting == 1
        if is_first:
            self._on_wait(reason)

    def _leave(self) -> None:
        with self._lock:
            self._num_waiting -= 1
            is_last = self._num_waiting == 0
        if is_last:
            self._on_wait("")
