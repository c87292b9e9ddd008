"""Combinations of cheap judgements: predictions of quality from few labels, evaluated on held-out networks.

    rank selection    mean of the ranks by up to four judgements, selected greedily on the labelled networks
    structure         ridge regression on counts of a network's parts, which needs no proxy
    ridge             ridge regression on ranks and structure
    curve             ridge regression on these and the first quarter of the learning curve, which needs training

A judgement of unknown direction gets the sign of its tau on the labelled networks. Either whole families are held out
(no network of a family is labelled) or random networks; at most `labels` networks are labelled. Gradient boosting, a
Gaussian process, the mean of all ranks and averages of these methods did not rank the tables of studies/results/truth
better, up to noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.truth.readers import Table
from nas.truth.structure import families, features
from predictors.agreement import kendall, ranks
from studies.agreement import Floats

LABELS = 60
MAX_FOLDS = 8
REPEATS = 3
MAX_CHOSEN = 4
STRUCTURE, CURVE = "structure", "curve"
CURVE_RATIO = 0.25

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Features of n networks: judged [n, P], ranks in [-1, 1]; known [P], whether higher judged is known to be better;
    structure [n, M]; curve [n, K]."""

    judged: Floats
    known: NDArray[np.bool_]
    structure: Floats
    curve: Floats

    def turned(self, y: Floats, train: Rows) -> Floats:
        """`judged` [n, P] with columns of unknown direction signed to agree with the labels y [m] of rows train [m]."""
        signs = [
            1.0 if self.known[p] else (np.sign(_tau(self.judged[train, p], y)) or 1.0)
            for p in range(self.judged.shape[1])
        ]
        turned: Floats = self.judged * signs
        return turned


Method = Callable[
    [Inputs, Floats, Rows], Floats
]  # (inputs, labels y [m], rows [m]) -> predictions [n] for all networks


@dataclass(frozen=True)
class HeldOut:
    """Predictions [n] of a method in one repeat, each made without the network's own label."""

    method: str
    scheme: str
    predictions: Floats


def inputs(table: Table, judged: Mapping[str, Floats], known: Mapping[str, bool]) -> Inputs:
    """The features of a table's n networks; judged: values [n] by name; known: whether their direction is known.

    A missing value gets the median of its judgement.
    """
    n = len(table.quality)
    columns = [_unit_ranks(values) for values in judged.values()]
    structure = features(table.archs) if table.archs else np.zeros((n, 0))
    if table.curves is None:
        curve = np.zeros((n, 0))
    else:
        curve = table.curves[:, : max(1, int(CURVE_RATIO * table.curves.shape[1]))]
    return Inputs(np.stack(columns, axis=1), np.array([known[name] for name in judged]), structure, curve)


def held_out(
    table: Table,
    given: Inputs,
    *,
    labels: int = LABELS,
    repeats: int = REPEATS,
    seed: int = 0,
    on_fold: Callable[[int, int], None] | None = None,
) -> list[HeldOut]:
    """Predictions for every network by every applicable method, with random folds and with folds of families."""
    kinds = families(table.archs) if table.archs else []
    schemes = {"random": np.arange(len(table.quality)).astype(str).tolist()}
    if len(set(kinds)) > 1:
        schemes = {"family": kinds} | schemes
    methods = _applicable(given)
    found, done, total = [], 0, len(schemes) * repeats
    for scheme, groups in schemes.items():
        for repeat in range(repeats):
            rng = np.random.default_rng([seed, repeat])
            folds = _folds(groups, rng)
            predicted = {name: np.full(len(table.quality), np.nan) for name in methods}
            for test in folds:
                others = np.setdiff1d(np.arange(len(table.quality)), test)
                train = rng.permutation(others)[:labels]
                for name, method in methods.items():
                    predicted[name][test] = method(given, table.quality[train], train)[test]
            found += [HeldOut(name, scheme, values) for name, values in predicted.items()]
            done += 1
            if on_fold is not None:
                on_fold(done, total)
    return found


def _applicable(given: Inputs) -> dict[str, Method]:
    without = [CURVE] * (not given.curve.shape[1]) + [STRUCTURE] * (not given.structure.shape[1])
    return {name: method for name, method in METHODS.items() if name not in without}


def _folds(groups: Sequence[str], rng: np.random.Generator) -> list[Rows]:
    """The rows of each fold: groups stay together and go, in random order, to the smallest fold so far."""
    names = rng.permutation(np.unique(groups))
    folds: list[list[int]] = [[] for _ in range(min(MAX_FOLDS, len(names)))]
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    for name in names:
        min(folds, key=len).extend(members[name])
    return [np.array(fold) for fold in folds]


def _unit_ranks(values: Floats) -> Floats:
    filled = np.where(np.isfinite(values), values, np.nan)
    middle = np.nanmedian(filled) if np.isfinite(filled).any() else 0.0
    found = ranks(np.where(np.isnan(filled), middle, filled))
    scaled: Floats = 2 * (found - 0.5) / len(values) - 1
    return scaled


def _tau(a: Floats, b: Floats) -> float:
    return float(np.nan_to_num(kendall(a, b)))


def _rank_selection(given: Inputs, y: Floats, train: Rows) -> Floats:
    turned = given.turned(y, train)
    chosen: list[int] = []
    total, best = np.zeros(len(turned)), -np.inf
    while len(chosen) < MAX_CHOSEN:
        taus = [
            -np.inf if p in chosen else _tau((total + turned[:, p])[train], y) for p in range(turned.shape[1])
        ]
        if max(taus) <= best:
            break
        best = max(taus)
        chosen.append(int(np.argmax(taus)))
        total = total + turned[:, chosen[-1]]
    return total


def _structure(given: Inputs, y: Floats, train: Rows) -> Floats:
    return _ridge(given.structure, y, train)


def _ridge_all(given: Inputs, y: Floats, train: Rows) -> Floats:
    return _ridge(np.hstack([given.judged, given.structure]), y, train)


def _curve(given: Inputs, y: Floats, train: Rows) -> Floats:
    rest = _standardised(np.hstack([given.judged, given.structure]), train)
    # all other inputs together get the variance of one point of the curve, which they would otherwise dominate
    return _fit(np.hstack([_standardised(given.curve, train), rest / np.sqrt(rest.shape[1])]), y, train)


def _ridge(X: Floats, y: Floats, train: Rows) -> Floats:
    return _fit(_standardised(X, train), y, train)


def _fit(X: Floats, y: Floats, train: Rows) -> Floats:
    from sklearn.linear_model import RidgeCV

    mean: Floats = RidgeCV(np.logspace(-3, 4, 22)).fit(X[train], y).predict(X)
    return mean


def _standardised(X: Floats, train: Rows) -> Floats:
    spread = X[train].std(0)
    scaled: Floats = (X - X[train].mean(0)) / np.where(spread > 0, spread, 1.0)
    return scaled


METHODS: dict[str, Method] = {
    "rank selection": _rank_selection,
    STRUCTURE: _structure,
    "ridge": _ridge_all,
    CURVE: _curve,
}
