"""Softmax with a norm: where one unit stands out it is one-hot, centred and scaled."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("torch.softmax(x, -1, dtype=wide)", "x.to(wide)")


def test_a_shift_of_all_units_changes_nothing():
    activation, x = build("activation", "softmax_ln"), activations()
    assert_equal(activation(x + 5), activation(x))


def test_a_unit_that_stands_out_takes_all():
    x = torch.zeros(1, 10, dtype=torch.float64)
    x[0, 3] = 100.0
    y = build("activation", "softmax_ln")(x)[0]
    expected = torch.full((10,), -1 / 3, dtype=torch.float64)
    expected[3] = 3.0
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
