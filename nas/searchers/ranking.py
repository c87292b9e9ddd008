"""Which of several results are better, feasibility first: the order that our own evolutionary searchers select by.

Whatever keeps every bound comes before whatever does not; among the latter less violation is better; among the
former an earlier Pareto front, then a less crowded place in it. Deb et al., "A Fast and Elitist Multiobjective
Genetic Algorithm: NSGA-II", 2002. Shapes: n results, M objectives, all to minimize.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Told
from studies.pareto import Points


def positions(told: Sequence[Told], rng: np.random.Generator) -> NDArray[np.int64]:
    """The place of each result from best (0) to worst, equals by lot. Returns [n]."""
    violations = np.array([t.violation for t in told])
    feasible = np.flatnonzero(violations == 0)
    rank, crowding = np.zeros(len(told)), np.zeros(len(told))
    if len(feasible):
        points = np.array([told[i].losses for i in feasible.tolist()])
        rank[feasible] = fronts(points)
        crowding[feasible] = distances(points, rank[feasible])
    order = np.lexsort((rng.random(len(told)), -crowding, rank, violations))
    places = np.empty(len(told), dtype=np.int64)
    places[order] = np.arange(len(told))
    return places


def fronts(points: Points) -> NDArray[np.int64]:
    """Index of the front that each point lies on, 0 for what nothing dominates. points: [n, M]. Returns [n]."""
    no_worse = np.asarray((points[:, None] <= points[None]).all(axis=2))  # [n, n]
    dominates = no_worse & ~no_worse.T
    rank = np.full(len(points), -1, dtype=np.int64)
    index = 0
    while (rank < 0).any():
        left = np.flatnonzero(rank < 0)
        rank[left[~dominates[np.ix_(left, left)].any(axis=0)]] = index
        index += 1
    return rank


def distances(points: Points, rank: NDArray[np.float64]) -> Points:
    """Crowding distance within the front of each point, inf at its ends. points: [n, M]. Returns [n]."""
    found = np.zeros(len(points))
    for index in np.unique(rank):
        members = np.flatnonzero(rank == index)
        for column in points[members].T:
            order = members[np.argsort(column, kind="stable")]
            values = np.sort(column)
            extent = values[-1] - values[0]
            if extent > 0:
                found[order[1:-1]] += (values[2:] - values[:-2]) / extent
                found[order[[0, -1]]] = np.inf
    return found
