"""The status of a study, as shown by command line and service."""

from __future__ import annotations

import socket
from enum import StrEnum
from typing import Any

from nas.execution.lease import LEASE_SECONDS, is_dead
from studies.control import Driver
from studies.records import Control, StudyState

LATE_SECONDS = 10.0  # a heartbeat is late after this time; they come every second


class Status(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    SEARCHING = "searching"
    WAITING = "waiting for the database"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


def status(state: str, control: str, progress: dict[str, Any], driver: Driver | None) -> Status:
    """The status from the study's state, its wanted state `control`, its driver's progress, and the lease's holder.

    A live driver without heartbeats waits for the database, which it can't write to. If the driver has ended, or was
    unreachable for as long as its lease lasts, the study is interrupted.
    """
    if state in (StudyState.FINISHED, StudyState.FAILED):
        return Status(state)
    if control in (Control.PAUSE, Control.STOP):
        return Status.PAUSED if control == Control.PAUSE else Status.STOPPED
    if state != StudyState.RUNNING:
        return Status.QUEUED if control == Control.RUN else Status(state)
    if driver is None or is_dead(driver.owner):
        return Status.INTERRUPTED
    if driver.seconds_left < LEASE_SECONDS - LATE_SECONDS:
        is_here = driver.owner.split(":")[0] == socket.gethostname()
        return Status.WAITING if is_here or driver.seconds_left > 0 else Status.INTERRUPTED
    return Status.PREPARING if progress and progress["what"] != "searching" else Status.SEARCHING
