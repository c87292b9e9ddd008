"""The integer program finds what trying every combination finds; the ladder has the steps that it is described by."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nas.blocks.solver import Floats, ladder, solve


def brute_force(values: list[Floats], costs: list[Floats], budgets: Floats) -> float | None:
    """The smallest sum of values among all combinations within the budgets."""
    found = [
        sum(v[i] for v, i in zip(values, picked, strict=True))
        for picked in product(*(range(len(v)) for v in values))
        if (sum(c[i] for c, i in zip(costs, picked, strict=True)) <= budgets).all()
    ]
    return float(min(found)) if found else None


@pytest.mark.parametrize("seed", range(40))
def test_the_integer_program_equals_brute_force(seed: int) -> None:
    """Tables of 2 to 5 groups with 1 to 5 options, 1 to 3 costs of very different size, some below zero."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(2, 6))
    M = int(rng.integers(1, 4))
    scale = 10.0 ** rng.integers(-3, 9, size=M)
    values = [rng.normal(size=n) for n in sizes]
    costs = [(rng.random((n, M)) - 0.3) * scale for n in sizes]
    budgets = (rng.random(M) - 0.2) * scale * len(sizes) / 2
    expected, picked = brute_force(values, costs, budgets), solve(values, costs, budgets)
    if expected is None:
        assert picked is None
        return
    assert picked is not None
    assert sum(v[i] for v, i in zip(values, picked, strict=True)) == pytest.approx(expected, abs=1e-9)
    spent = sum(c[i] for c, i in zip(costs, picked, strict=True))
    assert (spent <= budgets + 1e-6 * scale).all()


def test_without_a_budget_each_group_takes_its_best() -> None:
    values = [np.array([2.0, 1.0, 3.0]), np.array([0.0, -1.0])]
    costs = [np.ones((3, 1)), np.ones((2, 1))]
    assert solve(values, costs, np.array([2.0])) == [1, 1]
    assert solve(values, costs, np.array([1.9])) is None


@pytest.mark.parametrize(("L", "G"), [(1, 2), (4, 3), (6, 4)])
def test_the_ladder_rises_by_one_layer_at_a_time_and_never_falls_with_depth(L: int, G: int) -> None:
    steps = ladder(L, G)
    assert len(steps) == L * (G - 1) + 1
    assert steps[0] == (0,) * L
    assert steps[-1] == (G - 1,) * L
    assert [sum(step) for step in steps] == list(range(L * (G - 1) + 1))
    for step in steps:
        assert list(step) == sorted(step)
        assert max(step) - min(step) <= 1
