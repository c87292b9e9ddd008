"""Squared ReLU is homogeneous of degree two on one side and 0 on the other."""

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("torch.relu(x).square()", "torch.relu(x)", "searchspace/primitives/activations.py")


def test_it_is_the_square_of_what_is_positive():
    activation, x = build("activation", "relu_squared"), activations()
    assert_equal(activation(x) + activation(-x), x.square())
    assert not activation(-x.abs()).any()
