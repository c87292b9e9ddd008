"""The logistic sigmoid is a probability: what it gives a value and its negative adds up to one."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("weightless(torch.sigmoid)", "weightless(torch.tanh)")


def test_a_value_and_its_negative_share_one():
    sigmoid, x = build("activation", "logistic_sigmoid"), activations()
    assert_equal(sigmoid(x) + sigmoid(-x), torch.ones_like(x))
    assert_equal(sigmoid(x).logit(), x)
