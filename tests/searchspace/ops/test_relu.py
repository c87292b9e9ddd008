"""ReLU keeps what is positive."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("weightless(torch.relu)", "weightless(torch.abs)")


def test_what_it_keeps_and_what_it_drops_add_up():
    relu, x = build("activation", "relu"), activations()
    assert_equal(relu(x) - relu(-x), x)
    assert_equal(relu(x) + relu(-x), x.abs())


def test_it_is_homogeneous_of_degree_one():
    relu, x = build("activation", "relu"), torch.randn(5, dtype=torch.float64)
    assert_equal(relu(3 * x), 3 * relu(x))
