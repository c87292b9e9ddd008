"""LiT's attention is rectified linear attention plus a convolution with a kernel for each channel."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("without_padding(k.relu())", "without_padding(k.abs())", "searchspace/primitives/linear.py")
HEADS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}
TOKENS = {True: Tokens(), False: Tokens(grid=(3, 3))}


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_kernel_it_is_linear_attention(causal: bool):
    module, x = build("mixer", "lit", causal, **HEADS, kernel_size=3), activations()
    plain = build("mixer", "linear_attention", causal, **HEADS, feature_map=OpSpec("relu_features"))
    weights = module.state_dict()
    weights.pop("value_conv.weight").zero_()
    plain.load_state_dict(weights)
    assert_equal(output(module, x, TOKENS[causal]), output(plain, x))


def test_without_queries_only_the_neighbours_values_are_left():
    module, x = build("mixer", "lit", causal=False, **HEADS, kernel_size=3), activations()
    module.q_proj.weight.data.zero_()
    module.value_conv.weight.data.fill_(1.0)
    v = module.v_proj(x).unflatten(1, (3, 3))
    corner = v[:, :2, :2].sum((1, 2))
    assert_equal(output(module, x, TOKENS[False])[:, 0], module.o_proj(corner))
    assert_equal(output(module, x, TOKENS[False])[:, 4], module.o_proj(v.sum((1, 2))))
    assert torch.equal(module.value_conv.weight, torch.ones(8, 3, 3, dtype=torch.float64))
