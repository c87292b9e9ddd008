"""Measures a device in a child process that holds the device's lock, and continues after crashes.

Measurements of several processes of a user wait for each other. A network or operator that kills the process that runs
it (by a driver fault, or lack of memory) ends the child process, not the search.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from nas.errors import NasError
from nas.machine import measuring
from studies.patience import FULL_DISK

MAX_CRASHES = 20
SECONDS_TO_END = 10.0
ALIVE_SECONDS = 3.0
WAITING = "waiting for another process that measures"

T = TypeVar("T")
OnProgress = Callable[[int, int, str], None]
Work = Callable[[OnProgress], T]


class MeasuringFailed(NasError):
    """A measurement failed; the message says why."""


class MeasuringCrashed(MeasuringFailed):
    """The measuring process died in every attempt."""


def measure(work: Work[T], device: str, on_progress: OnProgress, max_crashes: int = MAX_CRASHES) -> T:
    """The result of `work(progress callback)` in a child process; `work` is a module's function or a partial of one.

    The child uses the kernels selected here (`searchspace.kernels.dispatch`). `on_progress` gets (done, total, text),
    also while waiting for another process; an exception that it raises ends the measurement. `work` is called again if
    its process died, so it must keep what it has measured; it and its result must be picklable. Raises MeasuringFailed
    if `work` raises, MeasuringCrashed if its process died `max_crashes` times, and OSError for a full disk.
    """
    how = ""
    for crashes in range(max_crashes):
        if crashes:
            on_progress(0, 1, f"continuing after the measuring process {how}")
        found, how = _attempt(work, device, on_progress)
        if not how:
            result: T = found
            return result
    raise MeasuringCrashed(f"the process that measured on {device} {how}, {max_crashes} times")


def _attempt(work: Work[T], device: str, on_progress: OnProgress) -> tuple[Any, str]:
    """(result of `work`, ""), or (None, how its process died)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, work, device, _kernels()), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends when the process dies
    try:
        with closing(ours):
            while True:
                kind, content = ours.recv()
                if kind == "progress":
                    on_progress(*content)
                elif kind == "full":
                    raise OSError(errno.ENOSPC, content)
                elif kind == "failed":
                    raise MeasuringFailed(content)
                else:
                    process.join(SECONDS_TO_END)  # time for its libraries to clean up
                    return content, ""
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        return None, f"ended with signal {-code}" if code < 0 else f"ended with exit status {code}"
    finally:
        process.kill()
        process.join()
        process.close()


def _serve(pipe: Connection, work: Work[T], device: str, kernels: str) -> None:
    """The child process. It holds the lock itself, so that the lock is free once nothing is measured any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()

    saying = threading.Lock()
    said: list[tuple[int, int, str]] = []

    def say(done: int, total: int, text: str) -> None:
        with saying:
            said[:] = [(done, total, text)]
            pipe.send(("progress", said[0]))

    def say_again() -> None:
        """Repeat the last progress during long calls, so that the parent can report it or end the measurement."""
        with suppress(OSError):  # the parent no longer listens
            while True:
                time.sleep(ALIVE_SECONDS)
                with saying:
                    for last in said:
                        pipe.send(("progress", last))

    threading.Thread(target=say_again, daemon=True).start()

    try:
        if kernels != "torch":
            from searchspace.kernels import dispatch

            dispatch.select(kernels)
        with measuring(device, lambda: say(0, 1, WAITING)):
            found = work(say)
    except (NasError, ValueError) as error:  # messages for the user
        _last(pipe, saying, "failed", str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            _last(pipe, saying, "full", str(error))
        else:
            _last(pipe, saying, "failed", f"{type(error).__name__}: {error}")
    else:
        _last(pipe, saying, "result", found)


def _last(pipe: Connection, saying: threading.Lock, kind: str, content: object) -> None:
    """Send the last message; the lock is never released, so that none follows."""
    saying.acquire()
    pipe.send((kind, content))


def _kernels() -> str:
    """The kernels selected in this process, without importing torch: "torch" if the dispatcher is not loaded."""
    switch = sys.modules.get("searchspace.kernels.dispatch")
    return switch.selected() if switch else "torch"


def _end_with_parent(pipe: Connection) -> None:
    """Exit when the parent dies, which ends the pipe; the parent never sends anything."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
