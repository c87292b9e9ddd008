"""Deterministic parameter-free projection."""

import pytest
import torch

from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = ("torch.cat((x, -x), -1).relu()", "torch.cat((x, -x), -1).abs()")


@pytest.mark.parametrize("nu", [1, 2])
def test_vectors_in_opposite_directions_share_no_feature(nu: int):
    phi, x = feature_map("dpfp", nu=nu), vectors()
    assert not (phi(x) * phi(-x)).any()
    assert phi(x).shape[-1] == phi.num_features == 8 * nu


def test_features_are_of_degree_two_and_those_of_neighbours():
    phi, x = feature_map("dpfp", nu=1), vectors()
    assert_equal(phi(3 * x), 9 * phi(x))
    two = torch.tensor([2.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    assert_equal(phi(two), torch.tensor([0, 6.0, 0, 0, 0, 0, 0, 0], dtype=torch.float64))
