"""What engine and database add to a trial whose evaluation costs nothing, in small studies and in large ones.

In processor time: a trial is over in milliseconds, which other processes of the machine would add to.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

import nas
from nas.api import read
from searchspace.spec.arch import ArchSpec
from tests.benchmarks.rows import Row

SEARCHERS = ("random", "evolution", "nsga2")
SMALL, LARGE = 10_000, 100_000
FIRST = 100


def run() -> list[Row]:
    return [row for searcher in SEARCHERS for row in _study(searcher, SMALL)]


def run_large() -> list[Row]:
    """Some ten minutes for each searcher."""
    return [row for searcher in SEARCHERS for row in _study(searcher, LARGE)]


def _study(searcher: str, count: int) -> list[Row]:
    """The overhead around trial 100 and around the last, and what it takes to list the front."""
    ends: list[float] = []

    def evaluate(arch: ArchSpec) -> dict[str, float]:
        ends.append(time.process_time())
        depth = sum(b.is_active for b in arch.blocks)
        return {"width": float(arch.d_model), "depth": depth + hash(arch.id) % 1000 / 1e3}

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
    first, last = milliseconds[FIRST // 2 : 3 * FIRST // 2], milliseconds[-FIRST * 10 :]
    rows = [
        _row(f"engine overhead, {searcher}, at {at} trials", part)
        for at, part in ((FIRST, first), (count, last))
    ]
    front = f"front of {count} trials, {searcher}, {members} members"
    return [*rows, Row(front, listing, listing, listing, "s", "2")]


def _row(name: str, milliseconds: np.ndarray) -> Row:
    """The mean, since what matters is the whole; the spread is that of its tenths."""
    tenths = [float(part.mean()) for part in np.array_split(milliseconds, 10)]
    baseline = "2 commits a trial are the least"
    return Row(name, float(milliseconds.mean()), min(tenths), max(tenths), "ms a trial", "3", baseline)
