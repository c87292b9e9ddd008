"""Rectified features."""

from typing import Any

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("pointwise(torch.relu)", "pointwise(lambda x: torch.relu(x) + 1e-3)")


def test_a_vector_is_its_features_less_those_of_its_negative():
    phi, x = feature_map("relu_features"), vectors()
    assert_equal(phi(x) - phi(-x), x)
    assert not (phi(x) * phi(-x)).any()


def test_a_query_without_features_gives_zero():
    heads: dict[str, Any] = {"num_groups": 1, "heads_per_group": 1, "head_dim": 4}
    module = build("mixer", "linear_attention", **heads, feature_map=OpSpec("relu_features"))
    x = activations()
    x[:, :, 0] = 1.0
    module.q_proj.weight.data.zero_()
    module.q_proj.weight.data[:, 0] = -1.0
    assert not output(module, x).any()
