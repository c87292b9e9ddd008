"""Products of Taylor features are the expansion of exp, exactly."""

import math

from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import assert_equal

DEFINING_TERM = ("x.square() / math.sqrt(2)", "x.square()")


def test_products_are_one_plus_s_plus_half_s_squared():
    phi, q, k = feature_map("taylor"), vectors(), vectors()
    s = (q * k).sum(-1) / math.sqrt(q.shape[-1])
    assert_equal((phi(q) * phi(k)).sum(-1), 1 + s + s.square() / 2)
    assert (1 + s + s.square() / 2 >= 0.5).all()


def test_the_number_of_features_is_that_of_distinct_products():
    phi = feature_map("taylor", K=16)
    assert phi.num_features == phi(vectors(K=16)).shape[-1] == 153
