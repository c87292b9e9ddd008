"""Ties a child process to its parent: the child is interrupted when the parent closes the child's stdin, or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile


class Child:
    """`python -m module`, tied to this process. With `is_seen` it shares stdout and stderr, else they are captured."""

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
            start_new_session=True,  # Ctrl-C only reaches the parent, which then decides
        )

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        return self._process.wait()

    def interrupt(self) -> None:
        """Make it end as after Ctrl-C."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        """Interrupt it if it still runs, wait for it, and delete its captured output."""
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
        """The last line of its captured stderr."""
        assert self._errors is not None
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it gave no reason"])[-1]


def end_with_parent() -> None:
    """Called by a child's main thread: from now on the end of stdin raises KeyboardInterrupt in that thread."""
    # background jobs of a shell inherit an ignored SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_wait, args=(threading.main_thread().ident,), daemon=True).start()


def _wait(main_thread: int) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would block the interpreter's exit
        pass
    signal.pthread_kill(main_thread, signal.SIGINT)
