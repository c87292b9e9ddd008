"""Latencies of operator settings that were not measured, interpolated from measured settings of the same operator.

Two models of each operator are fitted and averaged by their left-out errors (see `predictors.fewshot`): time as a sum
of terms, launch + flops / speed + bytes / bandwidth (the roofline of an eager operator), and time as a product of
powers of flops, bytes and sizes (interpolation on a log scale). Rows of several workloads may be mixed:
batch, queries and keys are sizes like any other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from predictors.fewshot import Features, FewShot, Floats, fit
from searchspace.spec.workload import Workload

MIN_ROWS = 4
UNKNOWN_ERROR = 0.5  # relative error stated for an operator with too few rows
PAIR = re.compile(r"(\w+)=([^\s,()]+)")


@dataclass(frozen=True)
class OperatorRow:
    """A setting's key, with the FLOPs and bytes of one call of the workload."""

    key: str
    flops: float
    bytes: float
    workload: Workload

    @property
    def operator(self) -> str:
        """Slot and operator name."""
        return " ".join(re.split(r"[ (]", self.key, maxsplit=2)[:2])

    @cached_property
    def items(self) -> dict[str, str]:
        """Hyperparameters and sizes by name; names repeated by a nested operator are numbered."""
        found: dict[str, str] = {}
        for name, value in PAIR.findall(self.key):
            found[f"{name}#{sum(n.split('#')[0] == name for n in found)}"] = value
        w = self.workload
        return found | {
            "batch": str(w.batch_size),
            "queries": str(w.num_queries),
            "keys": str(w.num_keys),
        }


class Interpolation:
    """Interpolates each operator that has measured rows; `ms` [k] are the latencies of the k rows."""

    def __init__(self, rows: Sequence[OperatorRow], ms: Sequence[float]) -> None:
        self._rows: dict[str, list[tuple[OperatorRow, float]]] = defaultdict(list)
        for row, value in zip(rows, ms, strict=True):
            self._rows[row.operator].append((row, value))
        self._fits: dict[str, _OperatorFit] = {}

    def predict(self, rows: Sequence[OperatorRow]) -> tuple[Floats, Floats]:
        """Return (ms [n], expected relative errors [n]). Raises ValueError for an operator without measured rows."""
        ms, errors = np.empty(len(rows)), np.empty(len(rows))
        places: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            places[row.operator].append(i)
        for name, here in places.items():
            if name not in self._fits:
                if name not in self._rows:
                    raise ValueError(f"no setting of {name} is measured: profile a space that has it")
                self._fits[name] = _OperatorFit(*zip(*self._rows[name], strict=True))
            ms[here], errors[here] = self._fits[name].predict([rows[i] for i in here])
        return ms, errors

    def error(self) -> dict[str, float]:
        """The expected relative error of each operator: the 90th percentile of its left-out errors."""
        for name, found in self._rows.items():
            if name not in self._fits:
                self._fits[name] = _OperatorFit(*zip(*found, strict=True))
        return {name: found.error for name, found in self._fits.items()}


class _OperatorFit:
    def __init__(self, rows: Sequence[OperatorRow], ms: Sequence[float]) -> None:
        self.columns = _columns(rows)
        self.low, self.high = np.log(min(ms)), np.log(max(ms))
        self.model: FewShot | None = None
        self.error = UNKNOWN_ERROR
        if len(rows) >= MIN_ROWS:
            self.model = fit(self._features(rows), np.array(ms))
            self.error = min(UNKNOWN_ERROR, float(np.quantile(np.abs(self.model.left_out), 0.9)))
        self.middle = float(np.median(np.log(ms)))

    def predict(self, rows: Sequence[OperatorRow]) -> tuple[Floats, float]:
        if self.model is None:
            return np.full(len(rows), np.exp(self.middle)), self.error
        # Extrapolate by a factor of four at most: a power law is unreliable further out.
        log_ms = self.model.log_ms(self._features(rows), {})
        return np.exp(np.clip(log_ms, self.low - np.log(4), self.high + np.log(4))), self.error

    def _features(self, rows: Iterable[OperatorRow]) -> Features:
        rows = list(rows)
        terms = np.array([(row.flops, row.bytes) for row in rows])
        powers = np.log(np.maximum(terms, 1.0))
        items = [[_value(row.items.get(name, ""), case) for name, case in self.columns] for row in rows]
        factors = np.array(items).reshape(len(rows), len(self.columns))
        return Features(terms, np.column_stack([powers, factors]))


def _columns(rows: Sequence[OperatorRow]) -> list[tuple[str, str | None]]:
    """One column for the logarithm of each size that varies, and one for each other value, including a size of 0."""
    found: list[tuple[str, str | None]] = []
    for name in dict.fromkeys(n for row in rows for n in row.items):
        values = sorted({row.items.get(name, "") for row in rows})
        if len(values) > 1:
            cases = [v for v in values if not _is_size(v)]
            found += [(name, case) for case in cases]
            if len(values) - len(cases) > 1:
                found.append((name, None))
    return found


def _value(value: str, case: str | None) -> float:
    if case is not None:
        return float(value == case)
    return float(np.log(float(value))) if _is_size(value) else 0.0


def _is_size(value: str) -> bool:
    try:
        return float(value) > 0
    except ValueError:
        return False
