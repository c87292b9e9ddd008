"""Rank correlations in closed form, and an evaluation of a table whose truth is known."""

import math

import numpy as np
import pytest

from predictors.evaluate import evaluate, kendall, ranks, spearman
from predictors.lookup import OperatorTable
from predictors.operator_grid import measure_settings, settings
from searchspace.load import load_space
from searchspace.spec.workload import Workload


def test_equal_values_share_their_mean_rank():
    assert ranks([10.0, 30.0, 10.0, 20.0]).tolist() == [1.5, 4.0, 1.5, 3.0]


def test_rank_correlations_of_an_order_itself_and_its_reverse():
    x = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert kendall(x, np.exp(x)) == pytest.approx(1.0)
    assert kendall(x, -x) == pytest.approx(-1.0)


def test_rank_correlations_equal_their_formulas_without_ties():
    rng, n = np.random.default_rng(0), 12
    x, y = rng.permutation(n), rng.permutation(n)
    assert spearman(x, y) == pytest.approx(1 - 6 * ((x - y) ** 2).sum() / (n * (n**2 - 1)))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    agreeing = sum((x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs)
    assert kendall(x, y) == pytest.approx((2 * agreeing - len(pairs)) / len(pairs))


def test_ties_are_taken_out_of_both_correlations():
    # ranks 1.5 1.5 3 against 1 2 3: covariance 1.5, sums of squares 1.5 and 2
    assert spearman([5, 5, 7], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    # two agreeing pairs of three, one tied on one side: 2 / sqrt(2 * 3)
    assert kendall([5, 5, 7], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


def test_a_constant_has_no_rank_correlation():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_an_evaluation_names_every_ranking_and_the_depths_it_has():
    space, workload = load_space("tiny-lm"), Workload(seq_len=8)
    rows, _ = measure_settings(settings(space), workload, samples=5, seconds_budget=0.5, nominal_ms=1.0)
    found = evaluate(space, OperatorTable(rows, workload), 12, nominal_ms=1.0, samples=5)
    assert [row.name for row in found.rows] == ["predicted", "retest", "flops", "parameters"]
    assert len(found.measured) == len(found.depths) == 12
    assert all(-1 <= row.spearman <= 1 for row in found.rows)
    assert all(
        row.by_depth.keys() == {d for d in found.depths if found.depths.count(d) >= 5} for row in found.rows
    )
    assert [math.isnan(row.median_error) for row in found.rows] == [False, False, True, True]
    text = found.table()
    assert all(row.name in text for row in found.rows)
    assert "12 random networks" in text
