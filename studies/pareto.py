"""Fronts, hypervolume and knee, all computed on losses: objectives with signs turned so that lower is better.

A point dominates another where it is no worse in any objective and better in one. Shapes: n trials, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.records import Objective, Trial, TrialState

Points = NDArray[np.float64]


def losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Points:
    """Return the trials' values as losses [n, M]; NaN where a trial lacks a value."""
    points = np.empty((len(trials), len(objectives)))
    for column, objective in zip(points.T, objectives, strict=True):
        column[:] = [t.values.get(objective.name, np.nan) for t in trials]
        column *= objective.loss(1.0)
    return points


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask [n] of the points [n, M] that no other point dominates; equal points share it, NaN excludes."""
    given = np.asarray(points, dtype=np.float64)
    usable = ~np.isnan(given).any(axis=1)
    candidates, origin = np.unique(given[usable], axis=0, return_inverse=True)
    alive = np.ones(len(candidates), dtype=bool)
    # In lexicographic order a later point never dominates an earlier one, nor is it better in the first objective.
    others = np.ascontiguousarray(candidates[:, 1:].T)  # [M - 1, n]
    for i in range(len(candidates)):
        if alive[i]:
            better = np.zeros(len(candidates) - i - 1, dtype=bool)
            for column in others:
                better |= column[i + 1 :] < column[i]
            alive[i + 1 :] &= better
    mask = np.zeros(len(given), dtype=bool)
    mask[usable] = alive[origin.reshape(-1)]
    return mask


def front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the non-dominated complete trials that have all values, best in the first objective first.

    Of trials with equal losses the one with the lowest number is kept.
    """
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    points = losses(complete, objectives)
    best = np.flatnonzero(non_dominated(points))
    _, first = np.unique(
        points[best], axis=0, return_index=True
    )  # sorted by the first objective, then by the next
    return [complete[i] for i in best[first]]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume that points [n, M] dominate up to `reference` [M]; points beyond it contribute nothing."""
    import moocore

    corner = np.asarray(reference, dtype=np.float64)
    inside = np.asarray(points, dtype=np.float64).reshape(-1, len(corner))
    inside = inside[(inside < corner).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0


def hypervolume_over_time(
    trials: Sequence[Trial], objectives: Sequence[Objective], reference: ArrayLike
) -> NDArray[np.float64]:
    """Return the hypervolume [n] after each trial by number, up to `reference` [M]; only complete trials contribute."""
    ordered = sorted(trials, key=lambda t: t.number)
    points = losses(ordered, objectives)
    volumes, volume = np.zeros(len(ordered)), 0.0
    best = np.empty((0, len(objectives)))  # [members, M] of the front so far
    for i, (trial, point) in enumerate(zip(ordered, points, strict=True)):
        usable = trial.state == TrialState.COMPLETE and not np.isnan(point).any()
        if usable and not (best <= point).all(axis=1).any():
            best = np.vstack([best[(best < point).any(axis=1)], point])
            volume = hypervolume(best, reference)
        volumes[i] = volume
    return volumes


def knee(points: ArrayLike) -> int:
    """Return the index of the compromise in a front [n, M]: the point closest to the best value of every objective.

    Each objective is measured from its best value, in units of the median distance from it. The median keeps a few
    extreme members, which every front has at its cheap end, from making the others look alike. Raises ValueError for no
    points.
    """
    given = np.asarray(points, dtype=np.float64)
    if len(given) == 0:
        raise ValueError("the knee of an empty front does not exist; give at least one point")
    excess = given - given.min(axis=0)
    typical = np.median(excess, axis=0)
    typical = np.where(typical > 0, typical, excess.max(axis=0))  # where more than half share the best value
    scaled: Any = excess / np.where(typical > 0, typical, 1.0)
    return int(np.argmin((scaled**2).sum(axis=1)))
