"""One line of a benchmark: a figure with its spread, target and trivial baseline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """`value` is the median, `low` and `high` the extremes over repeats; `baseline` is the trivial alternative."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    aim: str = ""
    baseline: str = ""


def per_second(name: str, run: Callable[[], int], repeats: int = 5, aim: str = "", baseline: str = "") -> Row:
    """Return how many items per second `run` processes; `run` returns its number of items."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        count = run()
        rates.append(count / (time.perf_counter() - start))
    return Row(name, float(np.median(rates)), min(rates), max(rates), "per second", aim, baseline)


def show(rows: list[Row]) -> None:
    for r in rows:
        notes = "; ".join(
            n for n in (f"aim {r.aim}" if r.aim else "", f"baseline: {r.baseline}" if r.baseline else "") if n
        )
        print(
            f"{r.name:48} {r.value:10,.4g} {r.unit} ({r.low:,.4g} to {r.high:,.4g}){'; ' + notes if notes else ''}"
        )
