"""A Gaussian process over the features of a genome, whose kernel is chosen by leave-one-out cross-validation.

    k = a_1 shape + a_2 sums + a_3 products + a_4 genes + a_5 rbf(shape, sums) + a_6 rbf(shape) genes

The first four are ridge regressions with separate penalties; the fifth adds nonlinearity, the sixth lets the effect of
a decision depend on the network's shape. The weights a and the noise maximize the leave-one-out log density of the
results, which has a closed form (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section
5.4.2); so the process is a ridge regression where that predicts better. The variance of a result that is itself an
estimate is added to the noise.
Shapes: n results, m queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky

from nas.searchers.guided.features import Described, Matrix, Vector

NUM_KERNELS = 6
NUM_STEPS = 70
_LENGTH = 3.0  # length scale of the rbf over `Described.smooth`


def kernels(a: Described, b: Described) -> Matrix:
    """The kernels between two sets of n and m genomes, unweighted. Returns [NUM_KERNELS, n, m]."""
    genes = a.genes @ b.genes.T
    return np.stack(
        [
            a.shape @ b.shape.T,
            a.sums @ b.sums.T,
            a.products @ b.products.T,
            genes,
            _rbf(a.smooth, b.smooth, _LENGTH),
            _rbf(a.shape, b.shape, 1.0) * genes,
        ]
    )


def _rbf(a: Matrix, b: Matrix, length: float) -> Matrix:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.exp(-np.maximum(squared, 0.0) / (2 * length**2)))


def choose_weights(parts: Matrix, values: Vector, known: Vector | float = 0.0) -> Vector:
    """Logarithms [NUM_KERNELS + 1] of the kernels' weights and the noise variance, by random coordinate search.

    parts: [NUM_KERNELS, n, n]; values: standardized, [n]; known: variance of each value's own error, [n] or a scalar.
    """
    rng = np.random.default_rng(0)
    best = np.zeros(len(parts) + 1)
    best[-1] = np.log(1e-2)
    density = _leave_one_out(parts, values, best, known)
    for step in range(NUM_STEPS):
        trial = best.copy()
        trial[step % len(best)] += 2 * rng.standard_normal()
        if (reached := _leave_one_out(parts, values, trial, known)) > density:
            best, density = trial, reached
    return best


def _leave_one_out(parts: Matrix, values: Vector, weights: Vector, known: Vector | float = 0.0) -> float:
    """Mean leave-one-out log density of the values up to constants, with the variance scaled to fit them; -inf where
    the covariance is singular."""
    covariance = _covariance(parts, weights, known)
    try:
        inverse = np.linalg.inv(covariance)
    except np.linalg.LinAlgError:
        return -np.inf
    diagonal = np.diag(inverse)
    if not (diagonal > 0).all():
        return -np.inf
    residuals = (inverse @ values) / diagonal
    scale = max(float((residuals**2 * diagonal).mean()), 1e-300)
    return float((np.log(diagonal) - np.log(scale)).mean())


def _covariance(parts: Matrix, weights: Vector, known: Vector | float = 0.0) -> Matrix:
    found = np.tensordot(np.exp(weights[:-1]), parts, axes=1)
    found[np.diag_indices(len(found))] += np.exp(weights[-1]) + 1e-8 + known
    return np.asarray(found)


@dataclass(frozen=True)
class GaussianProcess:
    """A predictor of one objective. With `is_log` it models the logarithm, which suits products of sizes."""

    seen: Described
    weights: Vector
    factor: Matrix  # lower Cholesky factor of the covariance, [n, n]
    solved: Vector  # covariance^-1 values, [n]
    mean: float
    scale: float
    variance: float
    is_log: bool

    def predict(self, described: Described) -> Vector:
        """Expected values [m]."""
        return np.asarray(predict_all([self], described)[:, 0])

    def predict_with_std(self, described: Described, parts: Matrix | None = None) -> tuple[Vector, Vector]:
        """(expected values, standard deviations without noise), each [m]; parts: `kernels(described, self.seen)`."""
        parts = kernels(described, self.seen) if parts is None else parts
        cross = np.tensordot(np.exp(self.weights[:-1]), parts, axes=1)
        explained = (cross * cho_solve((self.factor, True), cross.T).T).sum(axis=1)
        prior = self._prior(described)
        std = self.scale * np.sqrt(np.maximum(prior - explained, 1e-12) * self.variance)
        expected = self.back(cross @ self.solved)
        return expected, std * np.abs(expected) if self.is_log else std

    def nugget(self, expected: Vector) -> Vector:
        """The standard deviation [m] of the noise, which features do not explain, at values `expected` [m]."""
        std = np.full(len(expected), self.scale * np.sqrt(np.exp(self.weights[-1]) * self.variance))
        return std * np.abs(expected) if self.is_log else std

    def back(self, standardized: Vector) -> Vector:
        values = self.mean + self.scale * standardized
        return np.asarray(np.exp(np.clip(values, -700, 700)) if self.is_log else values)

    def _prior(self, described: Described) -> Vector:
        """The prior variance [m]."""
        squares = [(getattr(described, n) ** 2).sum(axis=1) for n in ("shape", "sums", "products", "genes")]
        parts = np.stack([*squares, np.ones_like(squares[0]), squares[3]])
        return np.asarray(np.exp(self.weights[:-1]) @ parts)


def predict_all(processes: Sequence[GaussianProcess], described: Described) -> Matrix:
    """Expected values [m, number of processes] of processes fitted to the same genomes.

    Four of the kernels are inner products of features, so their sums over the seen genomes are computed first.
    """
    seen = processes[0].seen
    solved = np.stack(
        [np.exp(p.weights[:-1, None]) * p.solved for p in processes], axis=2
    )  # [NUM_KERNELS, n, M]
    found = _rbf(described.smooth, seen.smooth, _LENGTH) @ solved[4]
    found += (_rbf(described.shape, seen.shape, 1.0) * (described.genes @ seen.genes.T)) @ solved[5]
    for name, summed in zip(("shape", "sums", "products", "genes"), solved[:4], strict=True):
        found += getattr(described, name) @ (getattr(seen, name).T @ summed)
    return np.stack([p.back(column) for p, column in zip(processes, found.T, strict=True)], axis=1)


def fit(
    seen: Described,
    values: Vector,
    weights: Vector | None = None,
    parts: Matrix | None = None,
    stds: Vector | None = None,
) -> GaussianProcess:
    """Fit a process to values [n]. `weights`: from `choose_weights`, None calls it; `parts`: `kernels(seen, seen)` if
    known; `stds` [n]: standard deviation of each value's own error.
    """
    standardized, mean, scale, is_log = standardize(values)
    known = variance_of(stds, values, scale, is_log)
    parts = kernels(seen, seen) if parts is None else parts
    if weights is None:
        weights = choose_weights(parts, standardized, known)
    factor = cholesky(_covariance(parts, weights, known), lower=True)
    solved = cho_solve((factor, True), standardized)
    variance = max(float(standardized @ solved) / len(values), 1e-12)
    return GaussianProcess(seen, weights, factor, solved, mean, scale, variance, is_log)


def standardize(values: Vector) -> tuple[Vector, float, float, bool]:
    """(standardized values [n], mean, scale, is_log): logarithms if all are positive, shifted by mean, over scale."""
    is_log = bool((values > 0).all())
    target = np.log(values) if is_log else values
    mean, scale = float(target.mean()), float(target.std()) or 1.0
    return (target - mean) / scale, mean, scale, is_log


def variance_of(stds: Vector | None, values: Vector, scale: float, is_log: bool) -> Vector | float:
    """Variances of the standardized values from deviations `stds` [n] of the values; a logarithm's is relative."""
    if stds is None:
        return 0.0
    return np.asarray((stds / (np.abs(values) if is_log else 1.0) / scale) ** 2)
