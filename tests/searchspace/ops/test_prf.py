"""Positive random features estimate exp(q . k)."""

import math

import pytest
import torch

from searchspace.primitives.linear import positive_random_features, random_directions
from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = (
    "x.square().sum(-1, keepdim=True) / 2",
    "x.square().sum(-1, keepdim=True)",
    "searchspace/primitives/linear.py",
)


def test_with_many_features_products_are_exponentials_of_products():
    q, k = 0.4 * vectors(), 0.4 * vectors()
    found = (positive_random_features(q, 20_000) * positive_random_features(k, 20_000)).sum(-1)
    torch.testing.assert_close(found, (q * k).sum(-1).exp(), rtol=0.15, atol=0.0)


def test_directions_are_orthogonal_in_blocks_and_always_the_same():
    w = random_directions(8, 4, torch.device("cpu"), torch.float64)
    for block in (w[:4], w[4:]):
        products = block @ block.T
        assert_equal(products, products.diag().diag())
    assert torch.equal(random_directions(6, 4, torch.device("cpu"), torch.float64), w[:6])


@pytest.mark.parametrize("N", [16, 32])
def test_with_unit_norm_the_length_of_a_vector_changes_nothing(N: int):
    phi, x = feature_map("prf", num_features=N, unit_norm=True), vectors()
    assert_equal(phi(5 * x), phi(x))
    plain = feature_map("prf", num_features=N, unit_norm=False)
    assert_equal(plain(x), positive_random_features(x / math.sqrt(math.sqrt(4)), N))


def test_directions_first_made_while_measuring_serve_training():
    phi, x = feature_map("prf", num_features=24, unit_norm=True), vectors().requires_grad_()
    with torch.inference_mode():
        phi(x)
    phi(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()
