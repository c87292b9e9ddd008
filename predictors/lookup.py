"""Latency as a sum over an operator table, corrected by measurements of whole networks on the same device.

    sum         slope * (sum over operators) + per_sublayer * (residual additions) + fixed
    learned     a ridge on the parts of the sum, as terms of a time or as powers (see `predictors.fewshot`)

The table has the latency of each operator alone; the correction adds what running them together changes: residual
additions, call overhead, fusion, caches. Of the two corrections, the one with smaller left-out errors is used. The
range of a prediction is conformal: it covers 90 % of networks like those it was fitted to, and is wider where
operators were interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from predictors.device import DeviceProfile, NetworkRow
from predictors.fewshot import Features, FewShot, Floats, Source, fit
from predictors.interpolation import Interpolation, OperatorRow
from predictors.operator_grid import operator_row, part_settings
from searchspace.model import parts
from searchspace.primitives.context import BuildContext
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec
from searchspace.spec.workload import Workload

MIN_NETWORKS = 4  # one more than the plain correction has coefficients
MIN_LEARNED = 12
FOLDS = 10
COVERAGE = 0.9


@dataclass(frozen=True)
class Prediction:
    """A predicted latency in ms, and its 90 % range."""

    value_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Sums:
    """Table sums of n networks: `ms` and `counts` [n, P] for each of P operators, residual `additions` [n].

    `uncertain_ms` [n] is the sum of the absolute errors stated for interpolated operators.
    """

    ms: Floats
    counts: Floats
    uncertain_ms: Floats
    additions: Floats

    @classmethod
    def of(cls, rows: Floats) -> Sums:
        """Views of rows [n, 2 P + 2] as `OperatorTable.sums` returns them."""
        P = rows.shape[1] // 2 - 1
        return cls(rows[:, :P], rows[:, P : 2 * P], rows[:, -2], rows[:, -1])

    @property
    def total(self) -> Floats:
        """Sum over operators [n], in ms."""
        found: Floats = self.ms.sum(1)
        return found

    @property
    def relative_error(self) -> Floats:
        """The part of each total [n] that is uncertain."""
        return self.uncertain_ms / np.where(self.total > 0, self.total, 1.0)

    def plain(self) -> Floats:
        """Return (sum over operators, residual additions, 1) [n, 3]."""
        return np.column_stack([self.total, self.additions, np.ones(len(self.ms))])

    def features(self) -> Features:
        shares = np.column_stack([self.ms, self.counts, self.additions]) / self.total[:, None]
        terms = np.column_stack([self.ms, self.counts, self.additions])
        return Features(terms, np.column_stack([np.log(self.total), shares]))


@dataclass(frozen=True)
class Correction:
    """Maps sums to a latency.

    `spread` is the median left-out error, `width` the conformal factor on it, `error` the mean left-out error.
    """

    slope: float = 1.0
    per_sublayer_ms: float = 0.0
    fixed_ms: float = 0.0
    learned: FewShot | None = None
    spread: float = 0.0
    width: float = 1.0
    error: float = 0.0

    def plain_ms(self, sums: Sums) -> Floats:
        """Return the latencies [n] in ms of the plain correction."""
        found: Floats = sums.plain() @ np.array([self.slope, self.per_sublayer_ms, self.fixed_ms])
        return found

    def predict(self, rows: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (latency, lower end, upper end), each [n] in ms, for rows [n, 2 P + 2] of sums."""
        sums = Sums.of(rows)
        value = plain = self.plain_ms(sums)
        if self.learned is not None:
            value = np.exp(self.learned.log_ms(sums.features(), _source(plain)))
        margin = np.exp(self.width * np.hypot(self.spread, sums.relative_error))
        return value, value / margin, value * margin


class OperatorTable:
    """Latencies of operator settings for one device, software and workload; settings not measured are interpolated."""

    def __init__(self, profile: DeviceProfile, correction: Correction = Correction()) -> None:
        self.workload, self.correction, self.failures = profile.workload, correction, profile.failures
        self.latency_ms = {row.subject: row.value for row in profile.operators}
        self._measured_workload = profile.source_workload or profile.workload
        rows = [OperatorRow(key, *profile.work[key], self._measured_workload) for key in self.latency_ms]
        self.operators = sorted({row.operator for row in rows})
        self.interpolation = Interpolation(rows, list(self.latency_ms.values()))
        self._parts: dict[tuple[Any, ...], Floats] = {}

    @classmethod
    def of_profile(cls, profile: DeviceProfile, space: str) -> OperatorTable:
        """Return the table, corrected on the profile's networks of that space where it has at least MIN_NETWORKS."""
        table = cls(profile)
        networks = [row for row in profile.networks if row.space == space]
        if len(networks) >= MIN_NETWORKS:
            table.calibrate(networks)
        return table

    def calibrate(self, networks: Sequence[NetworkRow]) -> None:
        """Fit the correction to the measured networks."""
        sums = np.array([self.sums(row.arch) for row in networks])
        self.correction = fit_correction(sums, np.array([row.measurement.value for row in networks]))

    def latency(self, arch: ArchSpec, workload: Workload) -> Prediction:
        """Predict a latency. Raises ValueError for another workload, or an operator not measured or not runnable."""
        self.check(workload)
        value, low, high = self.correction.predict(self.sums(arch)[None])
        return Prediction(float(value[0]), float(low[0]), float(high[0]))

    def check(self, workload: Workload) -> None:
        """Raises ValueError where `workload` is not the one of the table."""
        if workload != self.workload:
            raise ValueError(f"the operator table is for the workload {self.workload}, got {workload}")

    @property
    def num_sums(self) -> int:
        return 2 * len(self.operators) + 2

    def sums(self, arch: ArchSpec) -> Floats:
        """Return the sums [2 P + 2] of a network in the layout of `Sums`; repeated stages are counted each time."""
        repeats = [stage.repeats for stage in arch.stages for _ in range(stage.num_blocks)]
        found = np.zeros(self.num_sums)
        for name, slot, spec, context in parts(arch):
            times = repeats[int(name.removeprefix("blocks."))] if slot == "block" else 1
            found += times * self.part(slot, spec, context, arch.position)
        return found

    def part(self, slot: str, spec: OpSpec | BlockSpec, context: BuildContext, position: OpSpec) -> Floats:
        """Return the sums [2 P + 2] of one part, cached since a search uses few parts in many architectures.

        Raises ValueError where an operator does not run on the device or has no measured rows.
        """
        key = (slot, spec, context.anywhere, position)
        if key not in self._parts:
            found = np.zeros(self.num_sums)
            for setting, times in part_settings(slot, spec, context, position).items():
                if setting.key in self.failures:
                    raise ValueError(
                        f"{setting.key} does not run on this device: {self.failures[setting.key]}"
                    )
                ms, error = self.latency_ms.get(setting.key), 0.0
                if ms is None:
                    row = operator_row(setting, self._measured_workload)
                    (ms,), (error,) = self.interpolation.predict([row])
                where = self.operators.index(f"{setting.slot} {setting.spec.op}")
                found[where] += times * ms
                found[len(self.operators) + where] += times
                found[-2] += times * ms * error
            if isinstance(spec, BlockSpec):
                found[-1] = (spec.mixer != NONE) + (spec.ffn != NONE)
            self._parts[key] = found
        return self._parts[key]


def fit_correction(rows: Floats, measured: Floats) -> Correction:
    """Fit to rows [n, 2 P + 2] of sums and `measured` [n] in ms. Raises ValueError for n below MIN_NETWORKS."""
    if len(measured) < MIN_NETWORKS:
        raise ValueError(
            f"the correction needs {MIN_NETWORKS} measured networks or more, got {len(measured)}"
        )
    sums = Sums.of(rows)
    plain, left_out = _fit_plain(sums, measured), _plain_left_out(sums, measured)
    learned = None
    if len(measured) >= MIN_LEARNED:
        errors = _cross_validated(rows, measured)
        if np.abs(errors).mean() < np.abs(left_out).mean():
            learned, left_out = fit(sums.features(), measured, _source(plain.plain_ms(sums))), errors
    spread = float(np.median(np.abs(left_out)))
    scores = np.sort(np.abs(left_out) / np.maximum(np.hypot(spread, sums.relative_error), 1e-12))
    rank = min(len(scores), int(np.ceil((len(scores) + 1) * COVERAGE)))
    return replace(
        plain,
        learned=learned,
        spread=spread,
        width=float(scores[rank - 1]),
        error=float(np.abs(left_out).mean()),
    )


def _cross_validated(rows: Floats, measured: Floats) -> Floats:
    """Log errors [n] of the learned correction, each network predicted by a fit without its fold.

    The left-out errors of the fit itself also select it, which makes them too small where networks are few.
    """
    errors, fold = np.empty(len(measured)), np.arange(len(measured)) % FOLDS
    for i in range(FOLDS):
        known, unseen = Sums.of(rows[fold != i]), Sums.of(rows[fold == i])
        plain = _fit_plain(known, measured[fold != i])
        learned = fit(known.features(), measured[fold != i], _source(plain.plain_ms(known)))
        predicted = learned.log_ms(unseen.features(), _source(plain.plain_ms(unseen)))
        errors[fold == i] = np.log(measured[fold == i]) - predicted
    return errors


def _fit_plain(sums: Sums, measured: Floats) -> Correction:
    """The correction with three nonnegative coefficients."""
    one = np.ones(len(measured))
    return Correction(*nonnegative_least_squares(sums.plain() / measured[:, None], one).tolist())


def _plain_left_out(sums: Sums, measured: Floats) -> Floats:
    """Log errors [n] of the plain correction, each network predicted by a fit to the others."""
    A, one = sums.plain() / measured[:, None], np.ones(len(measured) - 1)
    fits = [nonnegative_least_squares(np.delete(A, i, 0), one) for i in range(len(measured))]
    return -np.log((A * np.array(fits)).sum(1))


def _source(plain_ms: Floats) -> Mapping[str, Source]:
    return {"sum": Source(np.log(plain_ms), np.zeros(len(plain_ms)))}


def nonnegative_least_squares(A: Floats, b: Floats) -> Floats:
    """Return the x >= 0 [k] that minimises |A x - b|, A [n, k], b [n], by trying every subset of nonzero entries."""
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
