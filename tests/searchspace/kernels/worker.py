"""A process beside this one in which kernels run: a broken kernel takes its process down and nothing else.

Triton decides when it is imported whether kernels are interpreted, so the choice is the process's environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
Ask = Callable[[str], Any]


@contextmanager
def worker(module: str, device: str, *paths: Path) -> Iterator[Ask]:
    """A function that has a request of one line answered by `module`: what it returns, or {"error": ...}.

    On a CPU kernels are interpreted. `paths` are searched for packages last.
    """
    searched = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", ""), *map(str, paths)])
    environment = {"TRITON_INTERPRET": "1" if device == "cpu" else "0", "PYTHONPATH": searched}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def ask(request: str) -> Any:
        try:
            stdin.write(request + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": f"the process ended with {process.wait()}"}

    try:
        yield ask
    finally:
        process.terminate()
        process.communicate()


def serve(answer: Callable[[str], Any]) -> None:
    """The other end: answer the requests on standard input, one line of JSON each."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not look like a reply
    for line in sys.stdin:
        try:
            found = answer(line.rstrip("\n"))
        except Exception as raised:
            found = {"error": f"{type(raised).__name__}: {raised}"}
        print(json.dumps(found), file=replies, flush=True)
