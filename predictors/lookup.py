"""Latency as a sum over an operator table, corrected by what whole networks of the same device showed.

    latency = slope * sum over operators + per_sublayer * (residual additions) + fixed

The table knows operators on their own; the correction is what they cost together: the residual additions, calling one
after the other, caches. Its three numbers are at least 0 and fitted by least squares of relative errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.device import DeviceProfile, NetworkRow
from predictors.operator_grid import part_settings
from searchspace.model import parts
from searchspace.primitives.context import BuildContext
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

Floats = NDArray[np.float64]
MIN_NETWORKS = 4  # one more than the correction has numbers


@dataclass(frozen=True)
class Correction:
    """`low` and `high` are the extremes of measured over predicted, each network predicted by a fit to the others."""

    slope: float = 1.0
    per_sublayer_ms: float = 0.0
    fixed_ms: float = 0.0
    low: float = 1.0
    high: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """A latency, and the range that its error on the calibration networks allows."""

    value_ms: float
    low_ms: float
    high_ms: float


class OperatorTable:
    """Latencies of operator settings on one device, software and workload; one row for each."""

    def __init__(
        self, rows: Iterable[Measurement], workload: Workload, correction: Correction = Correction()
    ) -> None:
        self.latency_ms = {row.subject: row.value for row in rows}
        self.workload = workload
        self.correction = correction
        self._parts: dict[tuple[Any, ...], tuple[float, int]] = {}

    @classmethod
    def of_profile(cls, profile: DeviceProfile, space: str) -> OperatorTable:
        """The table, corrected on the profile's networks of that space; as it is where they are too few."""
        table = cls(profile.operators, profile.workload)
        networks = [row for row in profile.networks if row.space == space]
        return table.calibrated(networks) if len(networks) >= MIN_NETWORKS else table

    def calibrated(self, networks: Sequence[NetworkRow]) -> OperatorTable:
        """The same table with the correction that fits the measured networks best."""
        features = np.array([self.features(row.arch) for row in networks])
        measured = np.array([row.measurement.value for row in networks])
        correction = fit_correction(features, measured)
        table = OperatorTable((), self.workload, correction)
        table.latency_ms, table._parts = self.latency_ms, self._parts
        return table

    def latency(self, arch: ArchSpec, workload: Workload) -> Prediction:
        """Raises ValueError for another workload, or where an operator setting is not in the table."""
        if workload != self.workload:
            raise ValueError(f"the operator table is for the workload {self.workload}, got {workload}")
        c = self.correction
        value = float(np.dot(self.features(arch), (c.slope, c.per_sublayer_ms, c.fixed_ms)))
        return Prediction(value, value * c.low, value * c.high)

    def features(self, arch: ArchSpec) -> tuple[float, float, float]:
        """(sum over operators in ms, number of residual additions, 1), repeated stages counted each time."""
        total, num_sublayers = 0.0, 0
        repeats = [stage.repeats for stage in arch.stages for _ in range(stage.num_blocks)]
        for name, slot, spec, context in parts(arch):
            ms, sublayers = self._part(slot, spec, context, arch.position)
            times = repeats[int(name[len("blocks.") :])] if slot == "block" else 1
            total += times * ms
            num_sublayers += times * sublayers
        return total, float(num_sublayers), 1.0

    def _part(
        self, slot: str, spec: OpSpec | BlockSpec, context: BuildContext, position: OpSpec
    ) -> tuple[float, int]:
        """(ms, residual additions) of one part, remembered: a search asks for few parts and many architectures."""
        key = (slot, spec, context.d_model, context.d_next, context.layout, context.causal, position)
        if key not in self._parts:
            found = part_settings(slot, spec, context, position)
            missing = [s.key for s in found if s.key not in self.latency_ms]
            if missing:
                raise ValueError(
                    f"the operator table has no row for {missing[0]}: measure the space's settings"
                )
            sublayers = (spec.mixer != NONE) + (spec.ffn != NONE) if isinstance(spec, BlockSpec) else 0
            ms = sum(self.latency_ms[s.key] * times for s, times in found.items())
            self._parts[key] = (ms, sublayers)
        return self._parts[key]


def fit_correction(features: Floats, measured: Floats) -> Correction:
    """features [n, 3] as `OperatorTable.features` gives them, measured [n] in ms. Needs n >= MIN_NETWORKS."""
    if len(measured) < MIN_NETWORKS:
        raise ValueError(
            f"the correction needs {MIN_NETWORKS} measured networks or more, got {len(measured)}"
        )
    slope, per_sublayer, fixed = nonnegative_least_squares(
        features / measured[:, None], np.ones(len(measured))
    )
    correction = Correction(float(slope), float(per_sublayer), float(fixed))
    left_out = []
    for i in range(len(measured)):
        rest = np.delete(features, i, 0) / np.delete(measured, i)[:, None]
        predicted = features[i] @ nonnegative_least_squares(rest, np.ones(len(rest)))
        left_out.append(measured[i] / predicted)
    return replace(correction, low=float(min(left_out)), high=float(max(left_out)))


def nonnegative_least_squares(A: Floats, b: Floats) -> Floats:
    """The x >= 0 [k] that minimises |A x - b|, by trying every set of entries held at 0; A [n, k] with small k."""
    best, smallest = np.zeros(A.shape[1]), float(b @ b)
    for used in product((False, True), repeat=A.shape[1]):
        columns = np.array(used)
        if not columns.any():
            continue
        x = np.zeros(A.shape[1])
        x[columns] = np.linalg.lstsq(A[:, columns], b, rcond=None)[0]
        error = float(np.sum((A @ x - b) ** 2))
        if (x >= 0).all() and error < smallest:
            best, smallest = x, error
    return best
