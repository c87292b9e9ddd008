"""Predicts a table's quantities for architectures that it does not hold: ridge regression, fitted per width.

Cross-validation selects one of two forms for each quantity: `additive` in the decisions and their sums over layers, or
`pairwise`, which adds the products of two sums, and of a decision with a sum or with the depth. Gradient boosting was
worse than the additive form on all of 12 quantities of HW-GPT-Bench.

Shapes: n rows, m queries, d features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.searchers.guided.features import families_of
from searchspace.spec.genome import Encoding, Genomes

FORMS = ("additive", "pairwise")
NUM_FOLDS = 5
PENALTIES = np.logspace(-3, 4, 8)  # in units of the mean variance of the features
MIN_ROWS_OF_WIDTH = 50  # widths with fewer rows are fitted together

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Errors of predictions for rows that were held out of the fit.

    `relative_rmse` is over all rows. By width, `relative_rmse_within` is the error and `r2_within` the explained share
    of the variance.
    """

    form: str
    relative_rmse: float
    relative_rmse_within: dict[str, float]
    r2_within: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class _Ridge:
    """A ridge regression: `coefficients` [d] for features minus their `means` [d], divided by their `scales` [d]."""

    means: Vector
    scales: Vector
    coefficients: Vector
    intercept: float

    def predict(self, x: Matrix) -> Vector:
        return np.asarray(((x - self.means) / self.scales) @ self.coefficients + self.intercept)


class Surrogate:
    """Predictions of one quantity from genomes [n, V] and values [n], with their error on held-out rows."""

    def __init__(self, encoding: Encoding, genomes: Genomes, values: Vector) -> None:
        self._encoding, self._design = encoding, _Design(encoding)
        self._groups = self._stratify(genomes)
        held_out = {}
        for form in FORMS:
            x = self._design(genomes, form)
            groups = self._groups_of(genomes)
            predicted = np.empty(len(values))
            penalties = {}
            for group in np.unique(groups):
                rows = np.flatnonzero(groups == group)
                predicted[rows], penalties[group] = _cross_validate(x[rows], values[rows])
            held_out[form] = predicted, penalties
        widths = genomes[:, self._width]
        errors = {f: _errors(f, values, p, widths, self._width_names) for f, (p, _) in held_out.items()}
        self.held_out = min(errors.values(), key=lambda e: e.relative_rmse)
        form, groups = self.held_out.form, self._groups_of(genomes)
        x, penalties = self._design(genomes, form), held_out[form][1]
        self._ridges = {
            group: _fit(x[groups == group], values[groups == group], penalties[group]) for group in penalties
        }

    @property
    def _width(self) -> int:
        return next(i for i, v in enumerate(self._encoding.variables) if v.name == "d_model")

    @property
    def _width_names(self) -> list[str]:
        return [str(v) for v in self._encoding.variables[self._width].values]

    def predict(self, genomes: Genomes) -> Vector:
        """Predicted values [m] for canonical genomes [m, V]."""
        x, groups = self._design(genomes, self.held_out.form), self._groups_of(genomes)
        predicted = np.empty(len(genomes))
        for group in np.unique(groups):
            predicted[groups == group] = self._ridges[group].predict(x[groups == group])
        return predicted

    def _stratify(self, genomes: Genomes) -> NDArray[np.int64]:
        """The group of each width, [number of widths]: its own if it has enough rows, else a common one."""
        counts = np.bincount(genomes[:, self._width], minlength=len(self._width_names))
        return np.where(counts >= MIN_ROWS_OF_WIDTH, np.arange(len(counts)), -1)

    def _groups_of(self, genomes: Genomes) -> NDArray[np.int64]:
        return np.asarray(self._groups[genomes[:, self._width]])


class _Design:
    """The features of a regression: a column for each value but the first of each decision, and sums over layers."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        families = [
            members
            for members in families_of(encoding)
            if encoding.num_values[members[0]] > 1 and encoding.variables[members[0]].name != "d_model"
        ]
        self.once = [members[0] for members in families if len(members) == 1]
        self.layered = [np.array(members) for members in families if len(members) > 1]

    def __call__(self, genomes: Genomes, form: str) -> Matrix:
        used = self.encoding.in_use(genomes)
        coded = [
            [(genomes[:, i] == v) & used[:, i] for v in range(1, self.encoding.num_values[i])]
            for i in self.once
        ]
        shape = np.array([column for columns in coded for column in columns], dtype=np.float64).T
        counts, totals, genes = [], [], []
        for members in self.layered:
            own, active = genomes[:, members], used[:, members]
            chosen = [(own == v) & active for v in range(1, self.encoding.num_values[members[0]])]
            genes += chosen
            counts += [c.sum(axis=1) for c in chosen]
            totals.append((own * active).sum(axis=1))
        layers = np.hstack(genes).astype(np.float64)
        sums = np.hstack([shape.reshape(len(genomes), -1), np.array(counts, dtype=np.float64).T])
        parts = [sums, layers]
        if form == "pairwise":
            first, second = np.triu_indices(sums.shape[1])
            parts.append(sums[:, first] * sums[:, second])
            parts += [column[:, None] * layers for column in (*shape.T, *np.array(totals, dtype=np.float64))]
        return np.hstack(parts)


def _cross_validate(x: Matrix, y: Vector) -> tuple[Vector, float]:
    """Predictions [n] for each row from the other folds, at the best penalty, and that penalty."""
    folds = np.random.default_rng(0).permutation(len(y)) % NUM_FOLDS
    predicted = np.empty((len(PENALTIES), len(y)))
    for fold in range(NUM_FOLDS):
        train, test = folds != fold, folds == fold
        for i, ridge in enumerate(_fits(x[train], y[train], PENALTIES)):
            predicted[i, test] = ridge.predict(x[test])
    best = int(np.argmin(((predicted - y) ** 2).mean(axis=1)))
    return predicted[best], float(PENALTIES[best])


def _fit(x: Matrix, y: Vector, penalty: float) -> _Ridge:
    return _fits(x, y, np.array([penalty]))[0]


def _fits(x: Matrix, y: Vector, penalties: Vector) -> list[_Ridge]:
    """A ridge regression for each penalty, from a single eigendecomposition."""
    means, scales = x.mean(axis=0), x.std(axis=0)
    scales = np.where(scales > 1e-9, scales, np.inf)  # a constant column predicts nothing
    centred = (x - means) / scales
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
    projected = vectors.T @ (centred.T @ (y - y.mean()))
    return [
        _Ridge(means, scales, vectors @ (projected / (np.maximum(eigenvalues, 0) + p)), float(y.mean()))
        for p in penalties
    ]


def _errors(
    form: str, values: Vector, predicted: Vector, widths: NDArray[np.int64], names: list[str]
) -> HeldOut:
    relative = (predicted - values) / np.where(values == 0, 1.0, np.abs(values))
    within, explained = {}, {}
    for index in np.unique(widths):
        rows = widths == index
        within[names[index]] = _rms(relative[rows])
        residual = float(((predicted - values)[rows] ** 2).mean())
        explained[names[index]] = 1 - residual / max(float(values[rows].var()), 1e-300)
    return HeldOut(form, _rms(relative), within, explained)


def _rms(errors: Vector) -> float:
    return float(np.sqrt((errors**2).mean()))
