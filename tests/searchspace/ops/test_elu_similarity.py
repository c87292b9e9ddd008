"""ELU attention."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("similarity / num_visible(scores, visible)", "similarity")
VISIBLE = torch.ones(6, 6, dtype=torch.bool).tril()


def test_where_all_scores_are_zero_both_forms_are_the_mean():
    for divide_by in ("sum", "count"):
        weights = build("normalizer", "elu_similarity", divide_by=divide_by)(torch.zeros(1, 1, 6, 6), VISIBLE)
        assert_equal(weights[0, 0], VISIBLE / torch.arange(1.0, 7.0)[:, None])


def test_of_the_two_only_the_divided_by_count_leaves_other_weights_alone():
    scores = torch.randn(1, 1, 6, 6).double()
    changed = scores.clone()
    changed[..., 5, 2] += 3.0
    for divide_by, moves in (("sum", 6), ("count", 1)):
        elu = build("normalizer", "elu_similarity", divide_by=divide_by)
        assert (elu(scores, VISIBLE) != elu(changed, VISIBLE)).sum() == moves
