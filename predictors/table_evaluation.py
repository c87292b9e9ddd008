"""How few measured networks of a device a prediction needs, evaluated on a published table of latencies.

Each draw treats 20 or 50 networks of the table as measured and predicts all others in three ways: a ridge on twelve
plain features, the few-shot fit alone, and the few-shot fit with the other devices' tables as sources. A source table
contributes the predictions of a model fitted to it and, for networks it contains, its measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predictors.agreement import spearman
from predictors.fewshot import Features, Floats, Source, fit
from predictors.latency_tables import LatencyTable

SAMPLES = (20, 50)
DRAWS = 10
MIN_WIDTH_ROWS = 20  # a rank correlation of fewer networks says little
CLIPPED = 0.3  # larger log residuals are measurement errors of the source


@dataclass(frozen=True)
class TableRow:
    """Medians over draws, at `samples` networks: median relative errors, and the rank correlation with transfer.

    `spearman_within` is the mean correlation over the table's widths; `sources` counts how often each source had the
    largest share. `floor` is the median error of a smooth model of all rows of the device: mostly measurement noise, so
    no prediction from few networks gets far below it.
    """

    device: str
    samples: int
    ridge: float
    alone: float
    transfer: float
    spearman: float
    spearman_within: float
    sources: Mapping[str, int]
    floor: float


def evaluate_table(
    table: LatencyTable,
    others: Sequence[LatencyTable] = (),
    *,
    draws: int = DRAWS,
    samples: Sequence[int] = SAMPLES,
    seed: int = 0,
    on_device: Callable[[int, int], None] | None = None,
) -> list[TableRow]:
    """Return one row per device and number of samples. `others` are tables of the same form with other devices.

    Raises ValueError where another table has another form, or the table has too few rows.
    """
    for other in others:
        if other.form != table.form:
            raise ValueError(f"a table of the form {other.form} can't help one of the form {table.form}")
    needed = 2 * max(samples)
    for device, ms in table.ms.items():
        if np.isfinite(ms).sum() < needed:
            raise ValueError(
                f"device {device} has {np.isfinite(ms).sum()} latencies in the table, at least {needed} are needed"
            )
    sources = {name: source for other in (table, *others) for name, source in _sources(other, table).items()}
    found = []
    for i, device in enumerate(table.ms):
        rows = np.flatnonzero(np.isfinite(table.ms[device]))
        usable = {n: s for n, s in sources.items() if n != device}
        floor = _median_error(sources[device].log_ms[rows], table.ms[device][rows])
        for count in samples:
            runs = [_draw(table, device, rows, count, usable, [seed, draw]) for draw in range(draws)]
            found.append(_summary(device, count, runs, floor))
        if on_device is not None:
            on_device(i + 1, len(table.ms))
    return found


@dataclass(frozen=True)
class _Run:
    ridge: float
    alone: float
    transfer: float
    spearman: float
    spearman_within: float
    source: str


def _draw(
    table: LatencyTable,
    device: str,
    rows: np.ndarray,
    count: int,
    sources: Mapping[str, Source],
    seed: list[int],
) -> _Run:
    shuffled = np.random.default_rng(seed).permutation(rows)
    known, unseen = shuffled[:count], shuffled[count:]
    ms = table.ms[device]
    alone, transfer = (
        fit(table.features[known], ms[known], {n: s[known] for n, s in given.items()})
        for given in ({}, sources)
    )
    plain = plain_ridge(table.baseline[known], ms[known], table.baseline[unseen])
    predicted = [
        model.log_ms(table.features[unseen], {n: s[unseen] for n, s in sources.items()})
        for model in (alone, transfer)
    ]
    within = [
        spearman(predicted[1][here], ms[unseen][here])
        for here in (table.widths[unseen] == width for width in np.unique(table.widths))
        if here.sum() >= MIN_WIDTH_ROWS
    ]
    return _Run(
        ridge=float(np.median(np.abs(plain / ms[unseen] - 1))),
        alone=_median_error(predicted[0], ms[unseen]),
        transfer=_median_error(predicted[1], ms[unseen]),
        spearman=spearman(predicted[1], ms[unseen]),
        spearman_within=float(np.mean(within)) if within else np.nan,
        source=transfer.sources[0],
    )


def _median_error(log_ms: Floats, ms: Floats) -> float:
    return float(np.median(np.abs(np.exp(log_ms) / ms - 1)))


def _summary(device: str, count: int, runs: Sequence[_Run], floor: float) -> TableRow:
    names = [run.source or "none" for run in runs]
    counts = {n: names.count(n) for n in sorted(set(names), key=lambda n: (-names.count(n), n))}
    values = {
        name: float(np.median([getattr(run, name) for run in runs]))
        for name in ("ridge", "alone", "transfer", "spearman", "spearman_within")
    }
    return TableRow(device, count, **values, sources=counts, floor=floor)


def plain_ridge(X: Floats, ms: Floats, unseen: Floats) -> Floats:
    """Return ms [n] for `unseen` [n, F], by a ridge on standardised X [k, F] and ms [k].

    Its penalty is chosen by left-out errors.
    """
    mean, scale = X.mean(0), X.std(0)
    scale[scale == 0] = 1.0
    U, singular, V = np.linalg.svd((X - mean) / scale, full_matrices=False)
    target = ms - ms.mean()
    best, chosen = np.inf, np.zeros(X.shape[1])
    for penalty in np.logspace(-4, 2, 13):
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = (U**2 * shrunk).sum(1) + 1 / len(ms)
        left_out = (target - U @ (shrunk * (U.T @ target))) / (1 - np.minimum(leverage, 1 - 1e-9))
        if (error := float(np.mean(left_out**2))) < best:
            best, chosen = error, V.T @ (singular / (singular**2 + penalty) * (U.T @ target))
    predicted: Floats = ms.mean() + (unseen - mean) / scale @ chosen
    return predicted


class TableModel:
    """A model of a whole table, fitted to its majority, that predicts any network.

    At a width with enough rows a time is a sum of terms with coefficients of that width, where that fits better;
    elsewhere
    log t is quadratic in the factors.
    """

    def __init__(self, table: LatencyTable, ms: Floats) -> None:
        """`ms` [n] are latencies of the table's rows, nan where not measured."""
        rows = np.isfinite(ms)
        features, widths, ms = table.features[rows], table.widths[rows], ms[rows]
        self.mean, self.scale = features.factors.mean(0), _scales(features.factors)
        self.quadratic = _majority_fit(self._quadratics(features), np.log(ms))
        self.at_width: dict[float, Floats] = {}
        rough = self._quadratics(features) @ self.quadratic
        for width in np.unique(widths):
            here = widths == width
            if here.sum() < MIN_WIDTH_ROWS * 10:
                continue
            X = _with_one(features.terms[here]) / ms[here, None]
            theta = _majority_fit(X, np.ones(int(here.sum())))
            if np.median(np.abs(X @ theta - 1)) < np.median(np.abs(rough[here] - np.log(ms[here]))):
                self.at_width[float(width)] = theta

    def log_ms(self, table: LatencyTable) -> Floats:
        """Return predicted log latencies [n], in log ms, of the networks of `table`."""
        found: Floats = self._quadratics(table.features) @ self.quadratic
        for width, theta in self.at_width.items():
            here = table.widths == width
            found[here] = np.log(np.maximum(_with_one(table.features.terms[here]) @ theta, 1e-9))
        return found

    def _quadratics(self, features: Features) -> Floats:
        Z = (features.factors - self.mean) / self.scale
        first, second = np.triu_indices(Z.shape[1])
        return np.column_stack([np.ones(len(Z)), Z, Z[:, first] * Z[:, second]])


def _majority_fit(X: Floats, target: Floats) -> Floats:
    """theta [F] of a least-squares fit to X [n, F], target [n], with weights that suppress gross errors."""
    scale = np.sqrt((X**2).mean(0))
    scale[scale == 0] = 1.0
    Z, weights = X / scale, np.ones(len(target))
    theta = np.zeros(X.shape[1])
    for _ in range(10):
        W = Z * weights[:, None]
        theta = np.linalg.solve(W.T @ Z + 1e-9 * len(target) * np.eye(Z.shape[1]), W.T @ target)
        residual = target - Z @ theta
        spread = 1.4826 * np.median(np.abs(residual)) + 1e-5
        weights = 1 / (1 + (residual / spread) ** 2)
    found: Floats = theta / scale
    return found


def _with_one(X: Floats) -> Floats:
    return np.column_stack([np.ones(len(X)), X])


def _scales(X: Floats) -> Floats:
    scale: Floats = X.std(0)
    scale[scale < 1e-9 * (1 + np.abs(X.mean(0)))] = 1.0
    return scale


def _sources(other: LatencyTable, table: LatencyTable) -> dict[str, Source]:
    """For each device of `other`, its predictions and residuals for the networks of `table`."""
    place = {name: i for i, name in enumerate(other.architectures)}
    same = np.array([place.get(name, -1) for name in table.architectures])
    found = {}
    for device, ms in other.ms.items():
        log_ms = TableModel(other, ms).log_ms(table)
        residual = np.zeros(len(log_ms))
        known = (same >= 0) & np.isfinite(ms[same])
        residual[known] = np.clip(np.log(ms[same[known]]) - log_ms[known], -CLIPPED, CLIPPED)
        found[device] = Source(log_ms, residual)
    return found
