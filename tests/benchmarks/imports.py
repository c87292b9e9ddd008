"""CPU seconds until the command line responds."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.benchmarks.rows import Row


def run() -> list[Row]:
    empty = min(_cpu_seconds("pass") for _ in range(5))
    code = "from nas.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    found = sorted(_cpu_seconds(code) for _ in range(5))
    return [
        Row(
            "nas --help",
            found[2],
            found[0],
            found[-1],
            "s of CPU",
            "0.5",
            f"an empty interpreter {empty:.3f}",
        )
    ]


def _cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
