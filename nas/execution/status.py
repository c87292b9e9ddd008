"""One word for what goes on with a study, whoever drives it."""

from __future__ import annotations

import socket
from typing import Any

from nas.execution.lease import LEASE_SECONDS, is_dead
from studies.control import Driver

LATE_SECONDS = 10.0  # of heartbeats that come every second


def status(state: str, control: str, progress: dict[str, Any], driver: Driver | None) -> str:
    """From the study's state, what is wanted of it, what its driver does, and who holds its lease.

    A driver that is there and gives no heartbeats waits for the database, which it can't write to. One that is gone, or
    out of reach for as long as its lease, has left the study interrupted.
    """
    if state in ("finished", "failed"):
        return state
    if control in ("pause", "stop"):
        return "paused" if control == "pause" else "stopped"
    if state != "running":
        return "queued" if control == "run" else state
    if driver is None or is_dead(driver.owner):
        return "interrupted"
    if driver.seconds_left < LEASE_SECONDS - LATE_SECONDS:
        is_here = driver.owner.split(":")[0] == socket.gethostname()
        return "waiting for the database" if is_here or driver.seconds_left > 0 else "interrupted"
    return "preparing" if progress and progress["what"] != "searching" else "searching"
