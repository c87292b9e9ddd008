"""SLAB's attention is rectified linear attention plus a convolution that all groups share."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = ("o + near.unsqueeze(3)", "o", "searchspace/primitives/linear.py")
TOKENS = {True: Tokens(), False: Tokens(grid=(3, 3))}


@pytest.mark.parametrize("causal", [True, False])
def test_with_a_kernel_of_the_token_alone_it_is_linear_attention_plus_the_values(causal: bool):
    module, x = build("mixer", "sla", causal, **HEADS, kernel_size=3), activations()
    plain = build("mixer", "linear_attention", causal, **HEADS, feature_map=OpSpec("relu_features"))
    weights = module.state_dict()
    kernel = weights.pop("shared_local.weight")
    plain.load_state_dict(weights)
    with torch.no_grad():
        kernel.zero_()
        kernel.flatten(1)[:, 0] = 1.0
    values = module.merge_heads(module.per_head(module.queries_keys_values(x)[2]))
    assert_equal(output(module, x, TOKENS[causal]), output(plain, x) + values)


def test_groups_share_the_kernel():
    one = build("mixer", "sla", **HEADS | {"num_groups": 1}, kernel_size=5)
    two = build("mixer", "sla", **HEADS, kernel_size=5)
    assert one.shared_local.weight.shape == two.shared_local.weight.shape == (4, 5)
