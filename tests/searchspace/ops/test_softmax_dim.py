"""Features that sum to 1."""

import torch

from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = ("x.softmax(-1)", "x.softmax(-2)")


def test_the_features_of_a_vector_sum_to_one_and_a_shift_changes_nothing():
    phi, x = feature_map("softmax_dim"), vectors()
    assert_equal(phi(x).sum(-1), torch.ones_like(x[..., 0]))
    assert_equal(phi(x + 3.0), phi(x))
