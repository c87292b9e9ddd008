"""Ties a child process to its parent: the child is interrupted when the parent closes the child's input, or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile


class Child:
    """`python -m module`, tethered to this process. What it writes is kept in files, unless it is to be seen here."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], is_seen: bool = False
    ) -> None:
        # closed by `close`
        self._output, self._errors = (None if is_seen else TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then decides
        )

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        return self._process.wait()

    def interrupt(self) -> None:
        """Ask it to end as after Ctrl-C."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        """Interrupts it where it still runs, waits for it, and lets go of what it wrote."""
        self.interrupt()
        self.wait()
        for file in (self._output, self._errors):
            if file is not None:
                file.close()

    def output(self) -> str:
        assert self._output is not None
        self._output.seek(0)
        return self._output.read()

    def reason(self) -> str:
        """The last line of what it wrote to its errors."""
        assert self._errors is not None
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it gave no reason"])[-1]


def end_with_parent() -> None:
    """Called by the child's main thread: from here on the end of its input is a Ctrl-C to that thread."""
    # a shell's background jobs inherit that it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_wait, args=(threading.main_thread().ident,), daemon=True).start()


def _wait(main_thread: int) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would keep the interpreter from ending
        pass
    signal.pthread_kill(main_thread, signal.SIGINT)
