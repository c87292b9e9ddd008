"""How busy each searcher keeps 200 simulated workers with trials of 1 s; only the driver's time is real.

The driver's time is CPU time from the first trial on, so the second in which it proposes the first 200 counts as idle.
"""

from __future__ import annotations

import numpy as np

from nas.simulation.replay import make
from tests.benchmarks.cluster import RECORD_SECONDS, Schedule, schedule
from tests.benchmarks.rows import Row
from tests.benchmarks.search import problem

SEARCHERS = ("random", "evolution", "nsga2", "guided")
WORKERS, SECONDS, EVALUATIONS, SEEDS = 200, 1.0, 4000, 3
LAG = 2 * WORKERS


def run() -> list[Row]:
    return [row for name in SEARCHERS for row in _rows(name)]


def _rows(name: str) -> list[Row]:
    found = [_schedule(name, seed) for seed in range(SEEDS)]
    label = f"{WORKERS} workers, {SECONDS:g} s, {name}"
    note = f"{SEEDS} seeds, {EVALUATIONS} trials, lag {LAG}, {1e3 * RECORD_SECONDS:g} ms for the database"
    return [
        _row(f"busy, {label}", [100 * s.busy_ratio for s in found], "%", "95", note),
        _row(f"driver, {label}", [s.driver_ms_per_trial for s in found], "ms a trial", "", note),
    ]


def _row(name: str, values: list[float], unit: str, aim: str, note: str) -> Row:
    return Row(name, float(np.median(values)), min(values), max(values), unit, aim, note)


def _schedule(name: str, seed: int) -> Schedule:
    made, _ = schedule(make(name, problem(), seed), problem(), EVALUATIONS, WORKERS, SECONDS, LAG, seed)
    return made
