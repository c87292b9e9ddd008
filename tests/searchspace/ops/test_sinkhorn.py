"""Rows and columns scaled in turn."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("-2 if step % 2 else -1", "-1")
ALL = torch.ones(7, 7, dtype=torch.bool)


def sinkhorn(half_steps: int) -> torch.nn.Module:
    return build("normalizer", "sinkhorn", causal=False, half_steps=half_steps)


def test_one_half_step_is_softmax():
    scores = torch.randn(2, 3, 7, 7).double()
    assert_equal(sinkhorn(1)(scores, ALL), scores.softmax(-1))


def test_rows_or_columns_sum_to_one_by_turns_and_in_the_end_both_do():
    scores = torch.randn(2, 3, 7, 7).double()
    one = torch.ones(2, 3, 7).double()
    assert_equal(sinkhorn(5)(scores, ALL).sum(-1), one)
    assert_equal(sinkhorn(6)(scores, ALL).sum(-2), one)
    misses = [(sinkhorn(n)(scores, ALL).sum(-2) - 1).abs().max() for n in (1, 3, 7, 401)]
    assert misses[0] > misses[1] > misses[2] > misses[3]
    assert misses[3] < 1e-10


def test_a_constant_added_to_a_row_changes_nothing():
    scores = torch.randn(2, 3, 7, 7).double()
    assert_equal(sinkhorn(5)(scores + torch.randn(2, 3, 7, 1).double(), ALL), sinkhorn(5)(scores, ALL))


def test_padding_takes_no_part():
    scores, visible = torch.randn(1, 1, 7, 7).double(), ALL.clone()
    visible[:, 4:] = False
    assert_equal(sinkhorn(5)(scores, visible)[..., :4, :4], sinkhorn(5)(scores[..., :4, :4], ALL[:4, :4]))
