"""The lease of a study: the database records which one process, its driver, proposes trials.

The owner is `host:pid:token`. The lease of a killed driver is taken over at once on the same host, where one can
check that the process is gone; on other hosts it has to expire.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

from nas.errors import StoreError, UsageError
from nas.execution.progress import Progress
from studies.control import heartbeat
from studies.errors import LeaseLost
from studies.queue import Queue
from studies.records import Control, Study
from studies.store import Store

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 1.0
PAUSE_SECONDS = 0.2
_held_here: set[str] = set()


class LeaseHeld(UsageError):
    """Another process drives the study."""


class Paused(Exception):
    """The study was paused and waits to be resumed."""


class Stopped(Exception):
    """The study was stopped."""


class Lease:
    """A lease held inside a `with` block; a thread renews it and sends the heartbeats of trials begun under it.

    Each renewal writes the driver's `progress` to the database and reads `control`, the wanted state of the study.
    Entering the block raises LeaseHeld if another live process holds the lease.
    """

    def __init__(self, store: Store, study: Study) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.progress = Progress()
        self.control = ""
        self._store = store
        self._study = study
        self._queue = Queue(store, study)
        self._released = threading.Event()
        self._problem: Exception | None = None
        self._renewal = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Lease:
        if not self._acquire():
            holder = self._store.lease_owner(self._study)
            if holder and is_dead(holder):
                self._store.release_lease(self._study, holder)
            if not self._acquire():
                raise LeaseHeld(
                    f"study {self._study.name!r} is driven by another process ({holder or 'unknown'}): "
                    f"stop that process, or wait {LEASE_SECONDS:.0f} s after it has died"
                )
        _held_here.add(self.owner)
        self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._renewal.join()
        _held_here.discard(self.owner)
        # On a full disk the release can't be stored; the lease then counts as that of a dead driver.
        with suppress(StoreError):
            self._store.release_lease(self._study, self.owner)

    def check(self) -> None:
        """Raises LeaseLost if another process took over, or the StoreError that a renewal met."""
        if self._problem is not None:
            raise self._problem

    def obey(self) -> None:
        """To be called regularly by work that can be resumed. Raises Paused or Stopped if `control` asks for it."""
        self.check()
        if self.control == Control.PAUSE:
            raise Paused
        if self.control == Control.STOP:
            raise Stopped

    def may_go_on(self) -> None:
        """Block while the study is paused. Raises Stopped if it is stopped."""
        while self.control == Control.PAUSE:
            self.check()
            time.sleep(PAUSE_SECONDS)
        self.obey()

    def _acquire(self) -> bool:
        return self._store.acquire_lease(self._study, self.owner, LEASE_SECONDS)

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                progress = self.progress.to_json()
                wanted = heartbeat(self._store, self._study, self.owner, LEASE_SECONDS, progress)
                self.control = wanted or ""
                if wanted is None:
                    self._problem = LeaseLost(f"study {self._study.name!r} was taken over by another process")
                self._queue.beat(self.owner)
            except StoreError as error:
                self._problem = error
            if self._problem is not None:
                return


def is_dead(owner: str) -> bool:
    """Whether the owner is a process of this host that has ended; False if that is unknown."""
    host, pid, _ = (*owner.split(":"), "", "")[:3]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return owner not in _held_here
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
