"""A worker's supervisor of drivers: finds a study that should run, and runs a driver process for it.

A driver is interrupted when its study is paused or stopped, or when a study of higher priority has no driver. Its
unfinished work is in the database and continues with the next driver.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nas.errors import StoreError
from nas.execution.lease import is_dead
from nas.workers.child import Child
from nas.workers.driver import DONE, FAILED, HELD, INTERRUPTED
from studies.control import Candidate, change, to_run
from studies.records import Control, StudyState
from studies.store import Store

LOOK_SECONDS = 0.3
EXPECTED = (DONE, HELD, INTERRUPTED)


@dataclass
class _Driver:
    candidate: Candidate
    process: Child
    is_ending: bool = False


class Supervisor:
    """Runs at most one driver at a time, while the worker evaluates trials. `study` restricts it to one study."""

    def __init__(self, store: Store, study: str = "") -> None:
        self._store, self._only = store, study
        self._driver: _Driver | None = None
        self._closed = threading.Event()
        self._problem: StoreError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a driver runs. Raises the StoreError that ended the supervisor's thread, if any."""
        if self._problem is not None:
            raise self._problem
        return self._driver is not None

    def close(self) -> None:
        """Interrupt the driver and wait for it."""
        self._closed.set()
        self._thread.join()
        if self._driver is not None:
            self._driver.process.close()

    def _run(self) -> None:
        try:
            while not self._closed.wait(LOOK_SECONDS):
                self._store.patience.retry(self._look)
        except StoreError as error:
            self._problem = error

    def _look(self) -> None:
        wanted = [c for c in to_run(self._store) if self._only in ("", c.name)]
        if self._driver is None:
            free = next((c for c in wanted if c.is_free or is_dead(c.owner)), None)
            self._driver = self._start(free) if free else None
            return
        if self._driver.process.poll() is not None:
            self._collect(self._driver)
            self._driver.process.close()
            self._driver = None
            return
        mine = self._store.study(self._driver.candidate.name)
        waiting = (c for c in wanted if c.is_free and c.name != mine.name)
        if mine.control != Control.RUN or any(c.priority > mine.priority for c in waiting):
            self._interrupt(self._driver)

    def _start(self, candidate: Candidate) -> _Driver:
        url = self._store.engine.url.render_as_string(hide_password=False)
        return _Driver(candidate, Child("nas.workers.driver", [candidate.name], {"NAS_DB": url}))

    def _interrupt(self, driver: _Driver) -> None:
        if not driver.is_ending:
            driver.is_ending = True
            driver.process.interrupt()

    def _collect(self, driver: _Driver) -> None:
        """Mark a study as failed whose driver died without recording why, so that it is not started again forever."""
        status = driver.process.poll()
        if status in EXPECTED or driver.is_ending:
            return
        study = self._store.study(driver.candidate.name)
        if not (status == FAILED and study.state == StudyState.FAILED):
            reason = f"the driver ended with status {status}: {driver.process.reason()}"
            change(self._store, study, control=Control.NONE, state=StudyState.FAILED, problem=reason)
