"""What this machine offers a process, and what its processes have to share."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from nas.home import home


def num_cores() -> int:
    """Cores that this process may use, which a container or a batch system can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def measuring(device: str) -> Iterator[None]:
    """One measurement on a device at a time: two at once would time each other. Waits for other processes of the user.

    The system frees the lock of a process that dies. Workers that see different GPUs do not wait for each other.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device == "cuda" else ""
    path = home() / "locks" / f"{socket.gethostname()}-{device}{visible}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
