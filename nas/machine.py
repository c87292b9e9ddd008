"""The number of cores of this machine, and locks that its processes share."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from nas.home import home


def num_cores() -> int:
    """The number of cores that this process may use, which a container or batch system can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measuring(device: str, on_busy: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
    """The lock for measurements on a device, since simultaneous ones would disturb each other.

    It waits for other processes of the user; those that see different GPUs do not wait for each other.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device == "cuda" else ""
    return alone(f"{socket.gethostname()}-{device}{visible}", on_busy)


@contextmanager
def alone(name: str, on_busy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock `name` of this NAS_HOME; if another process has it, call `on_busy` and wait.

    The system releases the lock of a process that dies.
    """
    path = home() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
