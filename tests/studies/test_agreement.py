"""Rank statistics against hand counts, brute force and simulation."""

import math

import numpy as np
import pytest

from predictors.agreement import kendall, spearman
from studies.agreement import agreement, noise_ceiling, quintiles, statistics, top_recall


def test_tau_with_ties_equals_the_count_by_hand():
    # Pairs of (1,1), (1,2), (2,3), (3,3): concordant 02, 12, 03, 13; tied in x 01; tied in y 23; so 4 / sqrt(5 * 5).
    x, y = np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 3])
    tau = statistics(x, y, np.arange(4)[None])[0, 0]
    assert tau == pytest.approx(4 / 5)


def test_weighted_pairs_give_what_the_resample_itself_gives():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 40).astype(float)
    y = x + rng.normal(0, 3, 40)
    picks = rng.integers(40, size=(5, 40))
    found = statistics(x, y, picks)
    assert found[:, 0] == pytest.approx([kendall(x[p], y[p]) for p in picks])
    assert found[:, 1] == pytest.approx([spearman(x[p], y[p]) for p in picks])


def test_a_large_table_gives_the_same_statistics(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, 60).astype(float)
    y = x + rng.normal(0, 3, 60)
    picks = rng.integers(60, size=(3, 60))
    expected = statistics(x, y, picks)
    monkeypatch.setattr("studies.agreement.LARGE", 10)
    assert statistics(x, y, picks) == pytest.approx(expected)


def test_recall_counts_the_best_tenth_that_is_found():
    truth = np.arange(20.0)
    judged = truth.copy()
    assert top_recall(judged, truth) == 1.0
    judged[19] = -1  # of the best two, one is lost
    assert top_recall(judged, truth) == 0.5
    assert top_recall(np.zeros(20), truth) == pytest.approx(
        0.1
    )  # all tied: two places among twenty, at random


def test_the_interval_covers_the_true_tau_about_as_often_as_it_says():
    # tau of a bivariate normal with correlation r is 2 / pi asin(r).
    rng = np.random.default_rng(2)
    r, hits = 0.6, 0
    for trial in range(100):
        x = rng.normal(size=80)
        y = r * x + math.sqrt(1 - r * r) * rng.normal(size=80)
        tau = agreement(x, y, ["all"] * 80, draws=100, seed=trial).overall["kendall"]
        hits += tau.lower <= 2 / math.pi * math.asin(r) <= tau.upper
    assert 85 <= hits <= 100  # of 100 at 95 %: below 85 has probability 1e-4


def test_a_judgement_that_only_knows_the_stratum_ranks_nothing_within():
    strata = ["a"] * 30 + ["b"] * 30
    size = np.repeat([0.0, 1.0], 30)
    truth = size + np.tile(np.linspace(0, 0.5, 30), 2)
    found = agreement(size, truth, strata, draws=30)
    # 900 of 1770 pairs are apart in size, all rightly ordered
    assert found.overall["kendall"].value == pytest.approx(900 / math.sqrt(900 * 1770))
    assert found.within["kendall"].value == 0


def test_the_gain_is_zero_over_oneself_and_counts_only_networks_with_a_value():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=50)
    judged = truth + rng.normal(size=50)
    judged[:7] = math.nan
    found = agreement(judged, truth, ["all"] * 50, reference=np.where(np.isnan(judged), 0, judged), draws=50)
    assert found.count == 43
    assert found.gain is not None
    assert (found.gain.value, found.gain.lower, found.gain.upper) == (0, 0, 0)


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="4 networks with a value; an agreement needs at least 5"):
        agreement([1.0, 2, 3, 4, math.nan], [1.0, 2, 3, 4, 5], ["a"] * 5)


def test_without_noise_the_ceiling_is_one_and_noise_alone_leaves_nothing():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=60)
    strata = ["a"] * 30 + ["b"] * 30
    overall, within = noise_ceiling(truth, strata, 1e-9, draws=10)
    assert overall.value == within.value == pytest.approx(1)
    _, within = noise_ceiling(truth, strata, 10.0, draws=50)
    assert abs(within.value) < 0.1


def test_the_ceiling_is_what_a_perfect_judgement_of_normal_qualities_gets():
    # Measured variance 2 with noise variance 1: correlation of quality and measurement sqrt(1/2), so tau = 1/2.
    measured = math.sqrt(2) * np.random.default_rng(5).normal(size=1000)
    overall, _ = noise_ceiling(measured, ["a"] * 1000, 1.0, draws=10)
    assert overall.value == pytest.approx(0.5, abs=0.04)


def test_quintiles_keep_equal_sizes_together():
    strata = quintiles([1, 1, 1, 1, 2, 3, 4, 5, 6, 7])
    assert len(set(strata[:4])) == 1
    assert sorted(strata) == strata
    assert quintiles([3, 3, 3]) == ["size 1 of 1"] * 3
