"""Sigmoid attention weighs each key by itself."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("scores - count.log()", "scores")


def test_rows_sum_to_nearly_one_where_all_scores_are_zero():
    """n sigmoid(-log n) = n / (n + 1)."""
    weights = build("normalizer", "sigmoid")(
        torch.zeros(1, 1, 1, 50).double(), torch.ones(1, 50, dtype=torch.bool)
    )
    assert_equal(weights.sum(-1), torch.full((1, 1, 1), 50 / 51, dtype=torch.float64))


def test_a_score_changes_no_weight_but_its_own():
    sigmoid, scores = build("normalizer", "sigmoid"), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    before = sigmoid(scores, visible)
    scores[..., 3, 1] += 5.0
    changed = sigmoid(scores, visible) != before
    assert changed.nonzero().tolist() == [[0, 0, 3, 1]]
