"""Exponential features with the largest at 1."""

import torch

from searchspace.primitives import linear
from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = ("x.amax(-1, keepdim=True)", "x.mean(-1, keepdim=True)")


def test_queries_may_as_well_be_plain_exponentials():
    phi, q, k, v = feature_map("exp"), vectors(), vectors()[:, :, :, 0], vectors()[:, :, :, 0]
    shifted = linear.normalized_reference(phi(q), phi(k), v, causal=True, eps=0.0)
    assert_equal(shifted, linear.normalized_reference(q.exp(), phi(k), v, causal=True, eps=0.0))


def test_nothing_overflows_and_the_largest_is_one():
    y = feature_map("exp")(1e4 * vectors())
    assert_equal(y.amax(-1), torch.ones_like(y[..., 0]))
