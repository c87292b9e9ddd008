"""A runner whose trials are evaluated by `nas worker` processes of any host, which find them in the database."""

from __future__ import annotations

import math
import time

from studies.queue import Queue
from studies.records import Outcome, Study, Trial
from studies.store import Store

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0
POLL_SECONDS = 0.05


class DatabaseRunner:
    """Keeps in flight as many trials as the study's lag allows, for any number of workers to share."""

    through_database = True

    def __init__(self, store: Store, study: Study) -> None:
        self.capacity = study.lag + 1
        self._queue = Queue(store, study)
        self._in_flight: set[int] = set()
        self._next_look = 0.0

    def submit(self, trial: Trial) -> None:
        self._in_flight.add(trial.number)

    def wait(self, timeout_seconds: float | None = None) -> list[Outcome]:
        deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            if time.monotonic() >= self._next_look:
                self._queue.revive(DEAD_AFTER_SECONDS)
                self._next_look = time.monotonic() + HEARTBEAT_SECONDS
            outcomes = self._queue.finished(self._in_flight)
            self._in_flight -= {o.number for o in outcomes}
            if outcomes or time.monotonic() >= deadline:
                return outcomes
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Forget trials in flight: workers finish those they have claimed, the others wait for the next driver."""
        self._in_flight.clear()
