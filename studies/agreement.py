"""How well a cheap judgement ranks networks: rank correlations with intervals, overall and within size strata.

    tau      Kendall's tau-b                rho    Spearman's rank correlation
    recall   share of the truly best tenth that is in the judgement's best tenth; ties share their places

An interval is the middle 95 % of the statistic over bootstrap resamples of the networks. A statistic within strata is
the mean over strata, weighted by their number of networks; where a judgement is constant in a stratum, tau and rho
count as 0 there. Two judgements are compared on the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.agreement import spearman

Floats = NDArray[np.float64]
Picks = NDArray[np.int64]

STATISTICS = ("kendall", "spearman", "recall")
DRAWS = 200
TOP = 0.1
MIN_STRATUM = 5
LARGE = 2000  # networks above which the matrix of all pairs costs more than a sort per resample


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval; all nan where undefined."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.3f} [{self.lower:.3f}, {self.upper:.3f}]"

    def to_json(self) -> dict[str, float | None]:
        return {n: None if math.isnan(v) else round(v, 5) for n, v in vars(self).items()}


@dataclass(frozen=True)
class Agreement:
    """Agreement of one judgement with the truth: statistics by name, over all networks, within strata, per stratum.

    `gain` is its tau minus that of the reference on the same networks; None without a reference.
    """

    count: int
    overall: Mapping[str, Estimate]
    within: Mapping[str, Estimate]
    strata: Mapping[str, Mapping[str, Estimate]]
    gain: Estimate | None = None
    gain_within: Estimate | None = None


def agreement(
    judgement: ArrayLike,
    truth: ArrayLike,
    strata: Sequence[str],
    reference: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Compare a judgement [n] with the truth [n], higher is better in both; networks with a nan are left out.

    `strata` has the stratum of each network; `reference` [n] is another judgement, for the gain. Raises ValueError
    where fewer than MIN_STRATUM networks are left.
    """
    x, y, groups = np.asarray(judgement, float), np.asarray(truth, float), np.asarray(strata, dtype=str)
    kept = np.isfinite(x) & np.isfinite(y)
    other = None if reference is None else np.asarray(reference, float)
    if other is not None:
        kept &= np.isfinite(other)
    if kept.sum() < MIN_STRATUM:
        raise ValueError(f"{kept.sum()} networks with a value; an agreement needs at least {MIN_STRATUM}")
    x, y, groups = x[kept], y[kept], groups[kept]
    picks = _resamples(len(x), draws, seed)
    overall = statistics(x, y, picks)
    members = {str(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    members = {g: rows for g, rows in members.items() if len(rows) >= MIN_STRATUM}
    inside = {g: _resamples(len(rows), draws, seed) for g, rows in members.items()}
    each = {g: statistics(x[rows], y[rows], inside[g]) for g, rows in members.items()}
    within = _mean(each, members, len(picks))
    gain = gain_within = None
    if other is not None:
        z = other[kept]
        theirs = {g: statistics(z[rows], y[rows], inside[g]) for g, rows in members.items()}
        gain = _estimate(overall[:, 0] - statistics(z, y, picks)[:, 0])
        gain_within = _estimate(within[:, 0] - _mean(theirs, members, len(picks))[:, 0])
    return Agreement(
        len(x), _named(overall), _named(within), {g: _named(v) for g, v in each.items()}, gain, gain_within
    )


def statistics(x: Floats, y: Floats, picks: Picks) -> Floats:
    """Return tau, rho and recall [R, 3] of x, y [n] on the resamples `picks` [R, n]."""
    recall = np.array([top_recall(x[p], y[p]) for p in picks])
    if len(x) > LARGE:
        from scipy.stats import kendalltau

        tau = np.array([kendalltau(x[p], y[p]).statistic for p in picks])
        rho = np.array([spearman(x[p], y[p]) for p in picks])
    else:
        counts = np.array([np.bincount(p, minlength=len(x)) for p in picks], dtype=np.float32)
        tau, rho = _from_pairs(_signs(x), _signs(y), counts)
    return np.stack([tau, rho, recall], axis=1)


def _signs(values: Floats) -> NDArray[np.float32]:
    return np.sign(np.subtract.outer(values, values)).astype(np.float32)


def _from_pairs(
    x: NDArray[np.float32], y: NDArray[np.float32], counts: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """tau and rho [R] from the signs of all pairs [n, n], where resample r takes network i counts[r, i] times.

    A rank in a resample is, up to a constant factor and term, the number of networks below minus the number above.
    """

    def over_pairs(matrix: NDArray[np.float32]) -> Floats:
        summed: Floats = ((counts @ matrix) * counts).sum(1, dtype=np.float64)
        return summed

    def product(a: Floats, b: Floats) -> Floats:
        summed: Floats = (counts * a * b).sum(1)
        return summed

    a, b = (np.asarray(counts @ s.T, dtype=np.float64) for s in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = over_pairs(x * y) / np.sqrt(over_pairs(x * x) * over_pairs(y * y))
        rho = product(a, b) / np.sqrt(product(a, a) * product(b, b))
    return tau, rho


def top_recall(judgement: Floats, truth: Floats, ratio: float = TOP) -> float:
    """Return the expected share of the true best ceil(ratio n) networks that are among as many best by judgement.

    Ties are broken at random. `judgement` and `truth` [n], higher is better in both.
    """
    k = math.ceil(ratio * len(truth))
    return float(_membership(judgement, k) @ _membership(truth, k)) / k


def _membership(values: Floats, k: int) -> Floats:
    """Probability [n] of being among the k largest values [n] when ties are broken at random."""
    border = np.partition(values, -k)[-k]
    above, equal = values > border, values == border
    share: Floats = above + equal * ((k - above.sum()) / equal.sum())
    return share


def noise_ceiling(
    truth: ArrayLike, strata: Sequence[str], seed_sd: float, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Return the tau that a perfect judgement would reach on a noisily measured truth, overall and within strata.

    The true spread is that of the measured truth minus the noise: each stratum is shrunk towards its mean until its
    variance matches, then noise with standard deviation `seed_sd` is added and tau computed, `draws` times. `truth` [n]
    and `strata` have one entry per network.
    """
    y, groups = np.asarray(truth, float), np.asarray(strata, dtype=str)
    rng = np.random.default_rng(seed)
    members = {str(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    quiet = y.copy()
    for rows in members.values():
        variance = y[rows].var(ddof=1) if len(rows) > 1 else 0.0
        shrink = math.sqrt(max(0.0, 1 - seed_sd**2 / variance)) if variance else 0.0
        quiet[rows] = y[rows].mean() + shrink * (y[rows] - y[rows].mean())
    members = {g: rows for g, rows in members.items() if len(rows) >= MIN_STRATUM}
    same = [np.arange(len(rows))[None] for rows in members.values()]
    overall, within = [], []
    for _ in range(draws):
        noisy = quiet + rng.normal(0, seed_sd, len(y))
        overall.append(statistics(quiet, noisy, np.arange(len(y))[None])[0, 0])
        each = {
            g: statistics(quiet[rows], noisy[rows], p)
            for (g, rows), p in zip(members.items(), same, strict=True)
        }
        within.append(_mean(each, members, 1)[0, 0])
    return tuple(
        Estimate(float(np.mean(v)), *map(float, np.quantile(v, (0.025, 0.975)))) for v in (overall, within)
    )  # type: ignore[return-value]


def quintiles(sizes: ArrayLike, parts: int = 5) -> list[str]:
    """Return the stratum of each network by its size, sizes [n]; networks of equal size share a stratum."""
    values = np.asarray(sizes, float)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)))
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    return [f"size {i + 1} of {max(1, len(edges) - 1)}" for i in index]


def _resamples(n: int, draws: int, seed: int) -> Picks:
    """Row indices [1 + draws, n]; the first row is the sample itself."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.arange(n)[None], rng.integers(n, size=(draws, n))])


def _mean(each: Mapping[str, Floats], members: Mapping[str, Picks], length: int) -> Floats:
    """Mean statistics [R, 3], weighted by the number of networks in each stratum; nan without strata."""
    if not each:
        return np.full((length, len(STATISTICS)), math.nan)
    weights = [len(members[g]) for g in each]
    mean: Floats = np.average([np.nan_to_num(v) for v in each.values()], axis=0, weights=weights)
    return mean


def _named(values: Floats) -> dict[str, Estimate]:
    return {name: _estimate(values[:, i]) for i, name in enumerate(STATISTICS)}


def _estimate(values: Floats) -> Estimate:
    """From the statistic of the sample (first) and of its resamples; resamples without a value are ignored."""
    defined = values[1:][np.isfinite(values[1:])]
    if not len(defined) or not math.isfinite(values[0]):
        return Estimate(math.nan, math.nan, math.nan)
    lower, upper = np.quantile(defined, (0.025, 0.975))
    return Estimate(float(values[0]), float(lower), float(upper))
