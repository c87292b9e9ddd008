"""What processes of their own measure in tests; without torch, so that they start at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from nas.measuring import OnProgress


def counted(log: Path, deaths: int, on_progress: OnProgress) -> int:
    """Its process dies so many times, then it returns how often it was called."""
    with log.open("a") as file:
        file.write("called\n")
    calls = len(log.read_text().split())
    on_progress(calls, deaths + 1, "counting")
    if calls <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls


def fail(error: Exception, on_progress: OnProgress) -> None:
    raise error


def lasting(pid_file: Path, on_progress: OnProgress) -> None:
    pid_file.write_text(str(os.getpid()))
    while True:
        on_progress(0, 1, "measuring")
