"""PolyReLU is a polynomial of what is positive."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("y * x + self", "y + self")


def test_with_the_first_power_alone_it_is_relu():
    activation, x = build("activation", "polyrelu", order=3), activations()
    activation.relu_coefficients.data = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
    assert_equal(activation(x), torch.relu(x))


def test_at_the_start_it_is_a_third_of_the_sum_of_the_powers():
    activation, x = build("activation", "polyrelu", order=3).float(), torch.tensor([-2.0, 1.0, 2.0])
    torch.testing.assert_close(activation(x), torch.tensor([0.0, 1.0, 14 / 3]))


def test_a_lower_order_is_the_higher_one_without_its_last_power():
    low, high, x = (*(build("activation", "polyrelu", order=r) for r in (2, 3)), activations())
    high.relu_coefficients.data.normal_()
    low.relu_coefficients.data.copy_(high.relu_coefficients[:3])
    high.relu_coefficients.data[3] = 0
    assert_equal(low(x), high(x))
