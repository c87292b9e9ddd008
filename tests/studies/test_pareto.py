"""Fronts against brute force, hypervolume and knee against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from studies.pareto import front, hypervolume, hypervolume_over_time, knee, losses, non_dominated
from studies.records import Objective, Trial

LOSS, ACCURACY = Objective("loss"), Objective("accuracy", "maximize")


def trials_of(points: np.ndarray, names: str = "xyz") -> list[Trial]:
    return [
        Trial(i, {}, f"a{i}", "complete", dict(zip(names, map(float, point), strict=False)))
        for i, point in enumerate(points)
    ]


def staircase(n: int) -> np.ndarray:
    """(0, n-1), (1, n-2), ... (n-1, 0)."""
    return np.stack([np.arange(n), np.arange(n)[::-1]], axis=1).astype(float)


def test_losses_turn_every_objective_to_minimize() -> None:
    trials = [Trial(0, {}, "a", "complete", {"loss": 2.0, "accuracy": 0.5}), Trial(1, {}, "b", "failed")]
    np.testing.assert_array_equal(losses(trials, [LOSS, ACCURACY]), [[2.0, -0.5], [np.nan, np.nan]])
    assert losses([], [LOSS, ACCURACY]).shape == (0, 2)


@pytest.mark.parametrize("M", [1, 2, 3, 4])
@pytest.mark.parametrize("values", [3, 10, 10**6])  # few values make many ties
def test_dominance_agrees_with_comparing_all_pairs(M: int, values: int) -> None:
    points = np.random.default_rng(M).integers(0, values, size=(200, M)).astype(float)
    points[::17, 0] = np.nan
    worse_nowhere = (points[:, None] <= points[None]).all(axis=2)  # [n, n]
    better_somewhere = (points[:, None] < points[None]).any(axis=2)
    expected = ~(worse_nowhere & better_somewhere).any(axis=0) & ~np.isnan(points).any(axis=1)
    np.testing.assert_array_equal(non_dominated(points), expected)


def test_the_front_has_complete_trials_only_sorted_and_each_point_once() -> None:
    points = np.array([[2, 1], [1, 2], [2, 1], [0, 3], [0, 0], [3, 3], [np.nan, 0], [1, 2]])
    trials = trials_of(points, "xy")
    trials[4] = replace(trials[4], state="infeasible")
    objectives = [Objective("x"), Objective("y")]
    assert [t.number for t in front(trials, objectives)] == [3, 1, 0]
    assert [t.number for t in front(trials[::-1], objectives)] == [3, 1, 0]
    assert front([], objectives) == []


def test_the_front_of_maximized_objectives_is_the_other_corner() -> None:
    objectives = [Objective("x", "maximize"), Objective("y", "maximize")]
    trials = trials_of(np.vstack([staircase(5), staircase(5) - 1]), "xy")
    assert [t.number for t in front(trials, objectives)] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_hypervolume_of_a_staircase(n: int) -> None:
    """The corner square of side n less the unit squares below the diagonal."""
    assert hypervolume(staircase(n), (n, n)) == n**2 - n * (n - 1) / 2


def test_hypervolume_of_boxes_in_three_dimensions() -> None:
    points = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]  # three 2 x 1 x 1 bars that share one unit cube
    assert hypervolume(points, (2, 2, 2)) == 4
    assert hypervolume([[0, 0, 0]], (2, 3, 4)) == 24


def test_points_beyond_the_reference_add_no_hypervolume() -> None:
    assert hypervolume([[0.0, 2.0], [3.0, 3.0], [np.nan, 0.0], [1.0, 1.0]], (2, 2)) == 1
    assert hypervolume(np.empty((0, 2)), (2, 2)) == 0


def test_hypervolume_over_time_equals_that_of_each_prefix() -> None:
    trials = trials_of(np.random.default_rng(0).random((80, 3)))
    trials[3] = replace(trials[3], values={"x": 0.0, "y": 0.0, "z": float("nan")})
    trials[7] = replace(trials[7], values={"x": 0.0, "y": 0.0, "z": 0.0}, state="failed")
    objectives = [Objective(n) for n in "xyz"]
    usable = [i for i in range(80) if i not in (3, 7)]
    points = losses(trials, objectives)
    expected = [hypervolume(points[[j for j in usable if j <= i]], (1, 1, 1)) for i in range(80)]
    found = hypervolume_over_time(trials[::-1], objectives, (1, 1, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [(1, 1), (1e-6, 1e9)])
def test_the_knee_of_an_l_shaped_front_is_its_corner_in_any_unit(scale: tuple[float, float]) -> None:
    points = np.array([[0, 10], [0.5, 6], [1, 1], [6, 0.5], [10, 0]]) * scale
    assert knee(points) == 2


def test_the_knee_of_flat_fronts() -> None:
    assert knee([[3.0, 4.0]]) == 0
    assert knee([[1, 5], [0, 5]]) == 1
    assert knee([[4, 0, 0], [0, 4, 0], [0, 0, 4], [1, 1, 1]]) == 3
    with pytest.raises(ValueError, match="at least one point"):
        knee(np.empty((0, 2)))


def test_one_member_far_off_does_not_move_the_knee_to_the_cheap_end() -> None:
    steps = staircase(9)
    assert knee(steps) == 4
    assert knee(np.vstack([steps, [1000.0, -0.5]])) in (3, 4, 5)
