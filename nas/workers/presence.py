"""Heartbeats by which a worker is known in the database."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from contextlib import suppress

from nas.errors import StoreError
from nas.execution.database import HEARTBEAT_SECONDS
from studies.store import Store
from studies.workers import gone, seen


class Presence:
    """Sends heartbeats of a worker, named `host:pid:token`, until `close`; `study` is the study that it serves."""

    def __init__(self, store: Store) -> None:
        self._host = socket.gethostname()
        self.name = f"{self._host}:{os.getpid()}:{secrets.token_hex(4)}"
        self.study = ""
        self._store = store
        self._closed = threading.Event()
        seen(store, self.name, self._host, "")
        self._thread = threading.Thread(target=self._say, daemon=True)
        self._thread.start()

    def serves(self, study: str) -> None:
        self.study = study
        seen(self._store, self.name, self._host, study)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        with suppress(StoreError):  # if that fails, the worker stays listed with the time it was last seen
            gone(self._store, self.name)

    def _say(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            with suppress(StoreError):
                seen(self._store, self.name, self._host, self.study)
