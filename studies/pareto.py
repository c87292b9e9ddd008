"""Fronts, hypervolume and knee. Everything works on losses: objectives with their direction turned to minimize.

A point dominates another when it is nowhere worse and somewhere better. Shapes: n trials, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studies.records import Objective, Trial, TrialState

Points = NDArray[np.float64]


def losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Points:
    """The values of the trials, to minimize; NaN where a trial has none. Returns [n, M]."""
    points = np.empty((len(trials), len(objectives)))
    for column, objective in zip(points.T, objectives, strict=True):
        column[:] = [t.values.get(objective.name, np.nan) for t in trials]
        column *= objective.loss(1.0)
    return points


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates, equal ones all or none; a point with a NaN is out. points: [n, M]."""
    given = np.asarray(points, dtype=np.float64)
    usable = ~np.isnan(given).any(axis=1)
    candidates, origin = np.unique(given[usable], axis=0, return_inverse=True)
    alive = np.ones(len(candidates), dtype=bool)
    # In lexicographic order a later point never dominates, and is never better in the first objective.
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
    """The non-dominated among the complete trials that have all values, best in the first objective first.

    Of trials with the same losses the one with the lowest number stays.
    """
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    points = losses(complete, objectives)
    best = np.flatnonzero(non_dominated(points))
    _, first = np.unique(
        points[best], axis=0, return_index=True
    )  # sorted by the first objective, then the next
    return [complete[i] for i in best[first]]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate below `reference`; a point not below it adds nothing. points: [n, M]."""
    import moocore

    corner = np.asarray(reference, dtype=np.float64)
    inside = np.asarray(points, dtype=np.float64).reshape(-1, len(corner))
    inside = inside[(inside < corner).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0


def hypervolume_over_time(
    trials: Sequence[Trial], objectives: Sequence[Objective], reference: ArrayLike
) -> NDArray[np.float64]:
    """Hypervolume after each trial, in order of number; trials that are not complete add nothing. Returns [n]."""
    ordered = sorted(trials, key=lambda t: t.number)
    points = losses(ordered, objectives)
    volumes, volume = np.zeros(len(ordered)), 0.0
    best = np.empty((0, len(objectives)))  # the front so far
    for i, (trial, point) in enumerate(zip(ordered, points, strict=True)):
        usable = trial.state == TrialState.COMPLETE and not np.isnan(point).any()
        if usable and not (best <= point).all(axis=1).any():
            best = np.vstack([best[(best < point).any(axis=1)], point])
            volume = hypervolume(best, reference)
        volumes[i] = volume
    return volumes


def knee(points: ArrayLike) -> int:
    """Index of the compromise: the point nearest to the best value of every objective at once.

    An objective is measured from its best value, in units of how far the median of the front is from it: a few members
    that are far off in one objective, as every front has at its cheap end, do not make the others look alike.
    points: [n, M], a front.
    """
    given = np.asarray(points, dtype=np.float64)
    if len(given) == 0:
        raise ValueError("the knee of an empty front does not exist; give at least one point")
    excess = given - given.min(axis=0)
    typical = np.median(excess, axis=0)
    typical = np.where(typical > 0, typical, excess.max(axis=0))  # more than half share the best value
    scaled: Any = excess / np.where(typical > 0, typical, 1.0)
    return int(np.argmin((scaled**2).sum(axis=1)))
