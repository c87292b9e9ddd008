"""Ranking of results by feasibility, dominance and crowding, for selection in our evolutionary searchers.

Results that meet all bounds rank before others. The others rank by violation; those that meet all bounds rank by
Pareto front, then by crowding distance. Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
2002. Shapes: n results, M objectives, all minimized.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation
from studies.pareto import Points


def positions(told: Sequence[Observation], rng: np.random.Generator) -> NDArray[np.int64]:
    """The rank [n] of each result, 0 is best; ties are broken at random."""
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
    """The index [n] of the front of each of the points [n, M]; 0 for non-dominated points."""
    if points.shape[1] == 2 and not np.isnan(points).any():
        return _fronts_of_two(points)
    no_worse = np.ones((len(points), len(points)), dtype=bool)
    for column in points.T:
        no_worse &= column[:, None] <= column
    dominates = no_worse & ~no_worse.T
    # A point's dominators as bits of an integer, for speed: a search ranks a population in every trial.
    better = [int.from_bytes(row.tobytes(), "little") for row in np.packbits(dominates.T, 1, "little")]
    rank = np.zeros(len(points), dtype=np.int64)
    left, alive, index = list(range(len(points))), (1 << len(points)) - 1, 0
    while left:
        front = [i for i in left if not better[i] & alive]
        left = [i for i in left if better[i] & alive]
        rank[front] = index
        alive -= sum(1 << i for i in front)
        index += 1
    return rank


def _fronts_of_two(points: Points) -> NDArray[np.int64]:
    """`fronts` for M = 2: in lexicographic order a point's front is the first whose last point does not dominate it."""
    rank = np.empty(len(points), dtype=np.int64)
    least: list[float] = []  # the second loss of the last point of each front, ascending
    previous, index = None, 0
    order = np.lexsort((points[:, 1], points[:, 0]))
    for i, point in zip(order.tolist(), points[order].tolist(), strict=True):
        if point != previous:  # equal points share a front
            index = bisect_right(least, point[1])
            least[index : index + 1] = [point[1]]
            previous = point
        rank[i] = index
    return rank


def distances(points: Points, rank: NDArray[np.float64]) -> Points:
    """The crowding distance [n] of points [n, M] within their fronts, given as rank [n]; inf at the ends of a front."""
    found = np.zeros(len(points))
    if not len(points):
        return found
    for column in points.T:
        order = np.lexsort((column, rank))  # front after front
        values, ordered = column[order], rank[order]
        is_first, is_last = np.ones((2, len(order)), dtype=bool)
        is_first[1:] = is_last[:-1] = ordered[1:] != ordered[:-1]
        extent = (values[is_last] - values[is_first])[np.cumsum(is_first) - 1]
        is_spread, is_end = extent > 0, is_first | is_last
        at = np.flatnonzero(is_spread & ~is_end)
        found[order[at]] += (values[at + 1] - values[at - 1]) / extent[at]
        found[order[is_spread & is_end]] = np.inf
    return found
