"""Linear attention: positive weights that sum to 1."""

from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, build, output

HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}
HEADS |= {"feature_map": OpSpec("elu_plus_one")}
DEFINING_TERM = ("(o[..., -1:] + eps)", "1.0", "searchspace/primitives/linear.py")


@pytest.mark.parametrize("causal", [True, False])
def test_constant_values_come_out_whatever_queries_and_keys_are(causal: bool):
    module, x = build("mixer", "linear_attention", causal, **HEADS), activations()
    with torch.no_grad():
        module.v_proj.weight.zero_()
        module.v_proj.weight[:, 0] = torch.arange(4.0)
    x[..., 0] = 1.0
    expected = module.o_proj(torch.arange(4.0, dtype=torch.float64).repeat(2)).expand(2, 9, -1)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-5, atol=1e-5)  # eps in the divisor


def test_features_are_positive():
    q, k, _ = build("mixer", "linear_attention", **HEADS).features(activations(), Tokens())
    assert (q > 0).all()
    assert (k > 0).all()


def test_a_bidirectional_network_does_not_see_the_order():
    module, x = build("mixer", "linear_attention", causal=False, **HEADS), activations()
    order = torch.randperm(9)
    torch.testing.assert_close(output(module, x[:, order]), output(module, x)[:, order])
