"""The surrogate model of a search: one predictor for each objective and one for the violation of bounds.

Choosing kernel weights costs far more than fitting with given weights, so they are chosen anew only when the number of
results has grown by half, and reused in between. Shapes: n results, m candidates, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.searchers.base import Observation
from nas.searchers.guided.features import Described, Features, Vector
from nas.searchers.guided.gaussian_process import (
    GaussianProcess,
    choose_weights,
    fit,
    kernels,
    predict_all,
    standardize,
    variance_of,
)
from nas.searchers.ranking import fronts
from searchspace.spec.genome import Genomes
from studies.pareto import Points

MIN_RESULTS = 8  # no model is fitted to fewer
MAX_CHOICE = 160  # largest number of results from which kernel weights are chosen
MAX_RESULTS = 600  # largest number of results in a fit: half of them the best, the others a sample
INFEASIBLE_COST = 10.0  # penalty of certain infeasibility, in ranges of the loss


@dataclass(frozen=True)
class Model:
    """`predictors`: one per objective; `feasibility`: predicts the violation, which must be below `bound`, None if all
    results are feasible; `spans` [M]: the range of each objective over the results."""

    features: Features
    predictors: tuple[GaussianProcess, ...]
    feasibility: GaussianProcess | None
    bound: float
    spans: Vector

    def means(self, described: Described) -> Points:
        """Expected losses. Returns [m, M]."""
        if all(p.seen is self.predictors[0].seen for p in self.predictors):
            return predict_all(self.predictors, described)
        return np.stack([p.predict(described) for p in self.predictors], axis=1)

    def means_and_stds(self, described: Described) -> tuple[Points, Points]:
        """(expected losses, standard deviations), each [m, M]."""
        seen = self.predictors[0].seen
        parts = kernels(described, seen)  # usually all predictors share it
        both = [p.predict_with_std(described, parts if p.seen is seen else None) for p in self.predictors]
        return np.stack([m for m, _ in both], axis=1), np.stack([s for _, s in both], axis=1)

    def of_judged(self, described: Described, losses: Points, stds: Points) -> tuple[Points, Points]:
        """(expected losses, standard deviations), each [n, M], of networks with results losses, stds: [n, M].

        A network's loss is the prediction from its features plus a residual with the variance of `nugget`. Result and
        prediction are averaged: the result has the weight nugget / (nugget + variance of the result).
        """
        means, unsure = self.means_and_stds(described)
        for j, predictor in enumerate(self.predictors):
            own, off = predictor.nugget(means[:, j]) ** 2, stds[:, j] ** 2
            share = own / np.maximum(own + off, 1e-300)
            means[:, j] += share * (losses[:, j] - means[:, j])
            unsure[:, j] = np.sqrt((1 - share) ** 2 * unsure[:, j] ** 2 + share * off)
        return means, unsure

    def probability(self, described: Described) -> Vector:
        """The probability [m] that every bound holds."""
        if self.feasibility is None:
            return np.ones(len(described.shape))
        mean, std = self.feasibility.predict_with_std(described)
        return np.asarray(ndtr((self.bound - mean) / std))

    def judge(self, genomes: Genomes) -> Points:
        """Expected losses [m, M] plus a penalty for the probability that a bound is violated. genomes: [m, V]."""
        described = self.features(genomes)
        missed = 1 - self.probability(described)
        return self.means(described) + INFEASIBLE_COST * missed[:, None] * self.spans


@dataclass
class Modeller:
    """Fits models to a growing list of results and caches the kernel weights."""

    features: Features
    _weights: dict[int, tuple[bytes, Vector]] = field(
        default_factory=dict
    )  # by objective, with the values from which they were chosen

    def fit(self, told: Sequence[Observation], stds: Points | None = None) -> Model | None:
        """The model, a function of the arguments only; None if fewer than MIN_RESULTS results have every loss.

        `stds` [n, M]: standard deviations of the losses' own errors, None for 0 everywhere.
        """
        is_ranked = np.array([t.is_ranked for t in told], dtype=bool)
        usable = [t for t in told if t.is_ranked]
        losses = np.array([t.losses for t in usable])
        stds = np.zeros_like(losses) if stds is None else stds[is_ranked]
        if sum(np.isfinite(row).all() for row in losses) < MIN_RESULTS:
            return None
        kept = _most_useful(losses)
        genomes = np.array([t.genome for t in usable])
        described = self.features(genomes[kept])
        parts = kernels(described, described)
        predictors = []
        for j in range(losses.shape[1]):
            values = losses[kept, j]
            known = np.flatnonzero(np.isfinite(values))
            off = stds[kept, j]
            weights = self._chosen(j, genomes, losses[:, j], stds[:, j])
            if len(known) == len(kept):
                predictors.append(fit(described, values, weights, parts, off))
            else:
                rows = parts[:, known[:, None], known[None]]
                predictors.append(fit(described[known], values[known], weights, rows, off[known]))
        violations = np.array([t.violation for t in usable])
        feasibility, bound = None, 0.0
        if (violations > 0).any():
            bound = float(violations[violations > 0].min()) / 2
            weights = self._chosen(-1, genomes, violations, np.zeros_like(violations))
            feasibility = fit(described, violations[kept], weights, parts)
        spans = np.nanmax(losses, axis=0) - np.nanmin(losses, axis=0)
        return Model(self.features, tuple(predictors), feasibility, bound, spans)

    def _chosen(self, objective: int, genomes: Genomes, values: Vector, stds: Vector) -> Vector:
        known = np.flatnonzero(np.isfinite(values))
        known = known[: checkpoint(len(known))]
        chosen_for = values[known].tobytes() + stds[known].tobytes()
        found = self._weights.get(objective)
        if found is None or found[0] != chosen_for:
            if len(known) > MAX_CHOICE:
                known = known[np.linspace(0, len(known) - 1, MAX_CHOICE).round().astype(np.int64)]
            described = self.features(genomes[known])
            standardized, _, scale, is_log = standardize(values[known])
            variance = variance_of(stds[known], values[known], scale, is_log)
            found = chosen_for, choose_weights(kernels(described, described), standardized, variance)
            self._weights[objective] = found
        return found[1]


def checkpoint(count: int) -> int:
    """The largest number up to `count` in 8, 12, 18, 27, ..., at which kernel weights are chosen anew; at least 8."""
    reached = MIN_RESULTS
    while reached * 3 // 2 <= count:
        reached = reached * 3 // 2
    return reached


def _most_useful(losses: Points) -> NDArray[np.int64]:
    """Indices of at most MAX_RESULTS results, ascending: half from the first fronts, the others at even distances."""
    if len(losses) <= MAX_RESULTS:
        return np.arange(len(losses))
    complete = np.isfinite(losses).all(axis=1)
    rank = np.full(len(losses), len(losses))
    rank[complete] = fronts(losses[complete])
    order = np.argsort(rank, kind="stable")
    best, others = order[: MAX_RESULTS // 2], np.sort(order[MAX_RESULTS // 2 :])
    sample = others[np.linspace(0, len(others) - 1, MAX_RESULTS // 2).round().astype(np.int64)]
    return np.sort(np.concatenate([best, sample]))
