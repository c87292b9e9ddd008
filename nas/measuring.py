"""The one way in which this project measures a device: alone on it, in a process of its own, going on after a crash.

Who measures while another process of the user does waits for it. A network or an operator that kills the process which
runs it for the first time (a fault of a driver, memory that runs out) costs that process, not the search.
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
    """What was to be measured can't be; says why."""


class MeasuringCrashed(MeasuringFailed):
    """The process that measured died each time."""


def measure(work: Work[T], device: str, on_progress: OnProgress, max_crashes: int = MAX_CRASHES) -> T:
    """What `work` returns: a function of a module, or a partial of one, which is called with a progress callback.

    Operators run by what is selected here (searchspace.kernels.dispatch). `on_progress` hears (done, total, what is
    done), and that it has to wait for another process first; what it raises ends the measuring. `work` is called again
    where its process died, so it has to keep what it has measured; it and what it returns have to be picklable. Raises
    MeasuringFailed for what `work` raises, MeasuringCrashed where its process died `max_crashes` times.
    """
    how = ""
    for crashes in range(max_crashes):
        if crashes:
            on_progress(0, 1, f"going on after the measuring process {how}")
        found, how = _attempt(work, device, on_progress)
        if not how:
            result: T = found
            return result
    raise MeasuringCrashed(f"the process that measured on {device} {how}, {max_crashes} times")


def _attempt(work: Work[T], device: str, on_progress: OnProgress) -> tuple[Any, str]:
    """(what `work` returned, ""), or (None, how its process died)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, work, device, _kernels()), daemon=True)
    process.start()
    theirs.close()  # now the death of the process is the end of the pipe
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
                    process.join(SECONDS_TO_END)  # libraries that it loaded tidy up after themselves
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
    """Holds the lock itself: it is free as soon as nothing is measured any more, whoever died first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()

    saying = threading.Lock()
    said: list[tuple[int, int, str]] = []

    def say(done: int, total: int, text: str) -> None:
        with saying:
            said[:] = [(done, total, text)]
            pipe.send(("progress", said[0]))

    def say_again() -> None:
        """One call may take long: who waits hears that it goes on, and may end it."""
        with suppress(OSError):  # nobody waits any more
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
    except (NasError, ValueError) as error:  # sentences for the user
        _last(pipe, saying, "failed", str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            _last(pipe, saying, "full", str(error))
        else:
            _last(pipe, saying, "failed", f"{type(error).__name__}: {error}")
    else:
        _last(pipe, saying, "result", found)


def _last(pipe: Connection, saying: threading.Lock, kind: str, content: object) -> None:
    """The last message: the lock is kept, so that none follows."""
    saying.acquire()
    pipe.send((kind, content))


def _kernels() -> str:
    """What operators run by here; where nothing has loaded the switch, and torch with it, nothing has turned it."""
    switch = sys.modules.get("searchspace.kernels.dispatch")
    return switch.selected() if switch else "torch"


def _end_with_parent(pipe: Connection) -> None:
    """The parent sends nothing: what ends the wait for it is its death."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
