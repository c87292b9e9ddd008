"""Softplus attention whose sharpness grows with length."""

import math
from itertools import pairwise

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("torch.relu(count * weights - 1)", "torch.relu(count * weights)")
VISIBLE = torch.ones(8, 8, dtype=torch.bool).tril()


def test_rows_sum_to_one_also_where_nothing_is_above_the_mean():
    for sharpening in (0, 1, 15):
        lssa = build("normalizer", "lssa", sharpening=sharpening)
        for scores in (torch.randn(2, 3, 8, 8).double(), torch.zeros(2, 3, 8, 8).double()):
            assert_equal(lssa(scores, VISIBLE).sum(-1), torch.ones(2, 3, 8).double())


def test_the_scale_is_the_logarithm_of_length_and_of_head_dim():
    scores = torch.randn(1, 1, 8, 8).double()
    weights = build("normalizer", "lssa", sharpening=0)(scores, VISIBLE)
    u = F.softplus(math.log(16) * math.log(8) * scores[0, 0, 7])
    assert_equal(weights[0, 0, 7], u / u.sum())


def test_sharpening_keeps_only_keys_above_the_mean_and_favours_the_best():
    scores = torch.randn(2, 3, 8, 8).double()
    plain, *sharp = (
        build("normalizer", "lssa", sharpening=p)(scores, VISIBLE)[..., 7, :] for p in (0, 1, 3, 15)
    )
    for weights in sharp:
        assert ((weights > 0) <= (plain > 1 / 8)).all()
    largest = [weights.amax(-1) for weights in (plain, *sharp)]
    assert all((b >= a - 1e-12).all() for a, b in pairwise(largest))
