"""Overhead of engine and database for a trial whose evaluation costs nothing, in small and in large studies.

Measured in CPU time: a trial takes milliseconds, to which other processes of the machine would add.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

import nas
from nas.api import read
from searchspace.spec.arch import ArchSpec
from tests.benchmarks.rows import Row

COUNTS = (100, 10_000, 100_000)


def run() -> list[Row]:
    return [row for searcher in ("random", "evolution", "nsga2") for row in _study(searcher, COUNTS[:2])]


def run_large() -> list[Row]:
    """Return rows for each searcher; takes about five minutes per searcher."""
    return [row for searcher in ("random", "evolution") for row in _study(searcher, COUNTS)]


def _study(searcher: str, counts: tuple[int, ...]) -> list[Row]:
    """Overhead around trial 100 and in the last tenth before each larger count, and the time to list the front."""
    first, *larger = counts
    count = max(counts)
    ends: list[float] = []

    def evaluate(arch: ArchSpec) -> dict[str, float]:
        ends.append(time.process_time())
        depth = sum(b.is_active for b in arch.blocks)
        return {"width": float(arch.d_model), "depth": depth + len(ends) * 7919 % 1000 / 1e3}

    with tempfile.TemporaryDirectory() as folder:
        db = f"sqlite:///{folder}/nas.db"
        nas.search(
            space="tiny-lm",
            objectives=["width", "depth"],
            evaluate=evaluate,
            study="bench",
            db=db,
            trials=count,
            searcher=searcher,
        )
        start = time.process_time()
        members = len(read("bench", db=db, archs=False).front)
        listing = time.process_time() - start
    milliseconds = 1e3 * np.diff(ends)
    parts = [milliseconds[first // 2 : 3 * first // 2], *(milliseconds[at - at // 10 : at] for at in larger)]
    rows = [
        _row(f"engine overhead, {searcher}, at {at} trials", part)
        for at, part in zip(counts, parts, strict=True)
    ]
    ratio = float(parts[-1].mean() / parts[0].mean())
    growth = f"overhead at {count} as a multiple of that at {first}, {searcher}"
    rows.append(Row(growth, ratio, ratio, ratio, "times", "1.5"))
    front = f"front of {count} trials, {searcher}, {members} members"
    return [*rows, Row(front, listing, listing, listing, "s", "2")]


def _row(name: str, milliseconds: np.ndarray) -> Row:
    """The mean, since the total matters; the spread is over the means of ten parts."""
    tenths = [float(part.mean()) for part in np.array_split(milliseconds, 10)]
    baseline = "2 commits a trial are the least"
    return Row(name, float(milliseconds.mean()), min(tenths), max(tenths), "ms a trial", "3", baseline)
