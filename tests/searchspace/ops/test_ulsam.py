"""Subspace attention shares out 1 over the tokens of an image, in each group of channels on its own."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.softmax(scores, 1,", "torch.softmax(scores, 2,")
GRID = Tokens(grid=(4, 5))


def test_the_weights_of_each_group_sum_to_one():
    weights = build("mixer", "ulsam", causal=False, subspaces=4).weights(activations(20), GRID)
    assert_equal(weights.sum(1), torch.ones(2, 4, dtype=torch.float64))


def test_without_scores_every_token_gives_the_same_share():
    module, x = build("mixer", "ulsam", causal=False, subspaces=2), activations(20)
    module.pointwise.data.zero_()
    assert_equal(output(module, x, GRID), x / 20)


def test_a_group_looks_at_its_own_channels():
    module, x = build("mixer", "ulsam", causal=False, subspaces=3), activations(20)
    changed = x.clone()
    changed[..., :4] += 1.0
    assert_equal(output(module, changed, GRID)[..., 4:], output(module, x, GRID)[..., 4:])
    assert not torch.allclose(output(module, changed, GRID)[..., :4], output(module, x, GRID)[..., :4])
