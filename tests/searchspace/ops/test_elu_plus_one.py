"""Features elu(x) + 1."""

import torch

from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = ("pointwise(elu_plus_one)", "pointwise(torch.abs)")


def test_they_are_positive_and_both_halves_meet_at_one():
    phi = feature_map("elu_plus_one")
    assert (phi(10 * vectors()) > 0).all()
    x = torch.tensor([-1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    assert_equal(phi(x), torch.tensor([torch.e**-1, 1.0, 3.0, 6.0], dtype=torch.float64))
