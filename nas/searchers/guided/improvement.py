"""Expected hypervolume improvement in closed form, and batches chosen by it one member at a time.

The region below the reference that no known result dominates is cut into boxes, each a product of intervals. For
independent normal predictions the expected volume gained in a box is a product of expected lengths, as in Yang
et al., "Efficient Computation of Expected Hypervolume Improvement Using Box Decomposition", 2019.
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
REPEATED = 400  # boxes of which many have a side in common
AT_A_TIME = 16  # candidates whose improvement is computed again


def boxes(points: Points, reference: Points) -> tuple[Points, Points]:
    """Lower (possibly -inf) and upper corners, each [B, M], of what no point dominates below the reference."""
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
        if left < right:  # only the first i points dominate anything in this slab
            lower, upper = boxes(front[:i, 1:], reference[1:])
            lowers.append(np.column_stack([np.full(len(lower), left), lower]))
            uppers.append(np.column_stack([np.full(len(upper), right), upper]))
    return np.vstack(lowers), np.vstack(uppers)


def expected_improvement(means: Points, stds: Points, lower: Points, upper: Points) -> NDArray[np.float64]:
    """Volume that each candidate is expected to add. means, stds: [m, M]; lower, upper: [B, M]. Returns [m]."""
    volumes = np.ones((len(means), len(lower)))
    for j in range(means.shape[1]):
        below_upper = _shortfall(upper[:, j], means[:, j], stds[:, j])
        volumes *= below_upper - _shortfall(lower[:, j], means[:, j], stds[:, j])
    return np.asarray(volumes.sum(axis=1))


def _shortfall(bounds: NDArray[np.float64], means: Points, stds: Points) -> Points:
    """E[max(bound - Y, 0)] of normal Y, 0 for a bound of -inf. Returns [m, B]."""
    unique, places = bounds, np.arange(len(bounds))
    if len(bounds) > REPEATED:  # with three objectives and more
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
    """Indices of up to `count` valid candidates, the one of the greatest expected improvement first.

    Each that is chosen counts as known with its predicted values when the next one is. `weights` [m] multiply what a
    candidate is expected to add: by the chance that it keeps every bound, or by what its time is worth. `is_valid` is
    asked only for those about to be chosen. known: [n, M].
    What is known only grows, so an improvement computed earlier bounds the present one, and few are computed again;
    with `at_once` above 1, that many candidates are chosen before the others are computed again.
    """
    chosen: list[int] = []
    gain = np.full(len(means), np.inf)  # at most so much; -1 for those that were decided on
    computed = np.full(len(means), -1)  # how many were chosen when it was computed
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
    """The front, or as many of its points, spread along it, as keep the number of boxes within MAX_BOXES."""
    front = front_below(points, reference)
    num_objectives = len(reference)
    most = int(MAX_BOXES ** (1 / (num_objectives - 1))) if num_objectives > 2 else MAX_BOXES
    if len(front) <= most:
        return front
    return front[np.linspace(0, len(front) - 1, most).round().astype(np.int64)]


def front_below(points: Points, reference: Points) -> Points:
    """The non-dominated among the points below the reference, each once, sorted by the first objective."""
    inside = points[(points < reference).all(axis=1)]
    if len(reference) != 2:
        return np.unique(inside[non_dominated(inside)], axis=0)
    ordered = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    least = np.minimum.accumulate(np.concatenate([[np.inf], ordered[:, 1]]))
    return np.asarray(ordered[ordered[:, 1] < least[:-1]])
