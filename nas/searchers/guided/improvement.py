"""Expected hypervolume improvement in closed form, and greedy choice of batches by it.

The region that dominates the reference point and that no known result dominates is cut into boxes. For independent
normal predictions the expected volume gained in a box is a product of expected lengths, as in Yang et al., "Efficient
Computation of Expected Hypervolume Improvement Using Box Decomposition", 2019.
Shapes: n known results, m candidates, M objectives to minimize, B boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from studies.pareto import Points, non_dominated

MAX_BOXES = 4000
REPEATED = 400  # with more boxes, many have bounds in common, which are computed once
AT_A_TIME = 16  # candidates whose improvement is recomputed at once


def boxes(points: Points, reference: Points) -> tuple[Points, Points]:
    """(lower corners, possibly -inf; upper corners), each [B, M], of boxes that no point dominates.

    points: [n, M]; reference: [M], the upper bound of all boxes.
    """
    if len(reference) == 1:
        return np.full((1, 1), -np.inf), np.vstack([points, reference]).min(axis=0)[None]
    front = front_below(points, reference)
    edges = np.concatenate([[-np.inf], front[:, 0], reference[:1]])
    if len(reference) == 2:
        heights = np.concatenate([reference[1:], front[:, 1]])
        lower = np.column_stack([edges[:-1], np.full(len(heights), -np.inf)])
        return lower, np.column_stack([edges[1:], heights])
    lowers, uppers = [], []
    for i, (left, right) in enumerate(pairwise(edges)):
        if left < right:  # only the first i points dominate a part of this slab
            lower, upper = boxes(front[:i, 1:], reference[1:])
            lowers.append(np.column_stack([np.full(len(lower), left), lower]))
            uppers.append(np.column_stack([np.full(len(upper), right), upper]))
    return np.vstack(lowers), np.vstack(uppers)


def expected_improvement(means: Points, stds: Points, lower: Points, upper: Points) -> NDArray[np.float64]:
    """Expected hypervolume improvement [m] of each candidate. means, stds: [m, M]; lower, upper: [B, M]."""
    volumes = np.ones((len(means), len(lower)))
    for j in range(means.shape[1]):
        below_upper = _shortfall(upper[:, j], means[:, j], stds[:, j])
        volumes *= below_upper - _shortfall(lower[:, j], means[:, j], stds[:, j])
    return np.asarray(volumes.sum(axis=1))


def _shortfall(bounds: NDArray[np.float64], means: Points, stds: Points) -> Points:
    """E[max(bound - Y, 0)] of normal Y, 0 for a bound of -inf. Returns [m, B]."""
    unique, places = bounds, np.arange(len(bounds))
    if len(bounds) > REPEATED:  # happens with three or more objectives
        unique, places = np.unique(bounds, return_inverse=True)
    finite = np.isfinite(unique)
    gap = np.where(finite, unique, 0.0)[None] - means[:, None]
    spread = np.maximum(stds, 1e-12)[:, None]
    z = gap / spread
    expected = gap * ndtr(z) + spread * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(np.where(finite, np.maximum(expected, 0.0), 0.0)[:, places])


def choose_batch(
    means: Points,
    stds: Points,
    weights: NDArray[np.float64],
    known: Points,
    reference: Points,
    count: int,
    is_valid: Callable[[int], bool] = lambda index: True,
    at_once: int = 1,
) -> list[int]:
    """Indices of up to `count` valid candidates in greedy order of weighted expected improvement.

    A chosen candidate counts as known, with its predicted losses, for the next choice. `weights` [m] multiply the
    improvements, such as the probability of feasibility or the inverse cost. `is_valid` is called only for candidates
    about to be chosen. means, stds: [m, M]; known: [n, M]; reference: [M].
    The known set only grows, so an earlier improvement is an upper bound and few have to be recomputed. `at_once`
    candidates are chosen before the improvements are recomputed.
    """
    chosen: list[int] = []
    gain = np.full(len(means), np.inf)  # upper bound of the improvement; -1 for candidates already decided on
    computed = np.full(len(means), -1)  # number of chosen candidates when `gain` was computed
    known = thinned(known, reference)
    cut = boxes(known, reference)
    while len(chosen) < count and (gain >= 0).any():
        first = np.argsort(-gain, kind="stable")[: max(AT_A_TIME, 2 * at_once) if chosen else len(gain)]
        first = first[gain[first] >= 0]
        if (computed[first[:at_once]] < len(chosen)).any():
            stale = first[computed[first] < len(chosen)]
            gain[stale] = expected_improvement(means[stale], stds[stale], *cut) * weights[stale]
            computed[stale] = len(chosen)
            continue
        taken = []
        for i in first[: min(at_once, count - len(chosen))].tolist():
            gain[i] = -1.0
            if is_valid(i):
                taken.append(i)
        if taken:
            chosen += taken
            known = thinned(np.vstack([known, means[taken]]), reference)
            cut = boxes(known, reference)
    return chosen


def thinned(points: Points, reference: Points) -> Points:
    """The front, or a subset spread along it that keeps the number of boxes within MAX_BOXES. [n, M] -> [k, M]."""
    front = front_below(points, reference)
    num_objectives = len(reference)
    most = int(MAX_BOXES ** (1 / (num_objectives - 1))) if num_objectives > 2 else MAX_BOXES
    if len(front) <= most:
        return front
    return front[np.linspace(0, len(front) - 1, most).round().astype(np.int64)]


def front_below(points: Points, reference: Points) -> Points:
    """The distinct non-dominated points below the reference, sorted by the first objective. [n, M] -> [k, M]."""
    inside = points[(points < reference).all(axis=1)]
    if len(reference) != 2:
        return np.unique(inside[non_dominated(inside)], axis=0)
    ordered = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    least = np.minimum.accumulate(np.concatenate([[np.inf], ordered[:, 1]]))
    return np.asarray(ordered[ordered[:, 1] < least[:-1]])
