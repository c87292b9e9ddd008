"""Softmax over the visible keys."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("masked_softmax(scores, visible)", "scores.sigmoid() * visible")


def test_rows_sum_to_one_and_a_shift_of_the_scores_changes_nothing():
    softmax, scores = build("normalizer", "softmax"), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    weights = softmax(scores, visible)
    assert_equal(weights.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert_equal(softmax(scores + 100, visible), weights)
    assert not weights[..., ~visible].any()


def test_a_row_that_sees_nothing_is_zero():
    weights = build("normalizer", "softmax")(torch.randn(1, 1, 2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert not weights.any()
