"""Normed learned positions are the norm of the learned ones."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("x + self.weight[tokens.positions]", "x")


def test_it_is_the_norm_of_the_token_and_the_row_of_its_place():
    learned, x = build("position", "learned_norm", eps=1e-12), activations(3)
    y, _ = learned(x, Tokens(positions=torch.tensor([4, 0, 9])))
    normed = F.layer_norm(x + learned.weight[[4, 0, 9]], x.shape[-1:], eps=1e-12)
    assert_equal(y, normed * learned.norm_weight + learned.norm_bias)
