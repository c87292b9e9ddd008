"""What the engine and the database add to a trial whose evaluation costs nothing."""

from __future__ import annotations

import tempfile
import time

import nas
from searchspace.spec.arch import ArchSpec
from tests.benchmarks.rows import Row

COUNT = 400


def run() -> list[Row]:
    rows = []
    for searcher in ("random", "nsga2"):
        found = sorted(_overhead_ms(searcher) for _ in range(3))
        baseline = "1 commit a trial is the least"
        rows.append(
            Row(f"engine overhead, {searcher}", found[1], found[0], found[2], "ms a trial", "3", baseline)
        )
    return rows


def _overhead_ms(searcher: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        ends: list[float] = []

        def evaluate(arch: ArchSpec) -> dict[str, float]:
            ends.append(time.perf_counter())
            return {"width": float(arch.d_model), "depth": float(sum(b.is_active for b in arch.blocks))}

        nas.search(
            space="tiny-lm",
            objectives=["width", "depth"],
            evaluate=evaluate,
            db=f"sqlite:///{folder}/nas.db",
            trials=COUNT,
            searcher=searcher,
        )
        return 1e3 * (ends[-1] - ends[0]) / (COUNT - 1)
