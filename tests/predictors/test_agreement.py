"""Rank correlations in closed form."""

import math

import numpy as np
import pytest

from predictors.agreement import kendall, ranks, spearman


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
