"""Fronts and crowding equal their definitions, for two objectives and for others."""

from __future__ import annotations

import numpy as np
import pytest

from nas.searchers.ranking import distances, fronts


def peeled(points: np.ndarray) -> list[int]:
    """What nothing left dominates is taken away, front after front."""
    rank, index = [-1] * len(points), 0
    while -1 in rank:
        left = [i for i, r in enumerate(rank) if r < 0]
        for i in left:
            if not any((points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left):
                rank[i] = index
        index += 1
    return rank


@pytest.mark.parametrize("num_objectives", [1, 2, 3])
@pytest.mark.parametrize("num_values", [3, 1000])
def test_fronts_are_what_is_left_undominated(num_objectives: int, num_values: int) -> None:
    points = np.random.default_rng(0).integers(0, num_values, size=(40, num_objectives)).astype(float)
    points[0] = np.inf
    assert fronts(points).tolist() == peeled(points)


def test_crowding_is_the_sum_of_the_gaps_between_neighbours_of_a_front() -> None:
    points = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0], [2.0, 5.0], [5.0, 5.0]])
    rank = fronts(points).astype(float)
    assert rank.tolist() == [0, 0, 0, 0, 1, 2]
    expected = [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf, 0.0, 0.0]
    assert distances(points, rank).tolist() == expected
