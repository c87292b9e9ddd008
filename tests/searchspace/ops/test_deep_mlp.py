"""Several hidden layers in one FFN."""

from typing import Any

import pytest
import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("hidden = self.activation(proj(hidden))", "hidden = proj(hidden)")


def ffn(op: str, activation: str = "relu", **items: Any) -> Any:
    return build("ffn", op, d_ff=16, activation=OpSpec(activation), **items)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_with_one_hidden_layer_it_is_the_mlp(activation: str):
    deep, plain = ffn("deep_mlp", activation, num_hidden=1), ffn("mlp", activation)
    plain.load_state_dict(deep.state_dict())
    x = activations()
    assert_equal(output(deep, x), output(plain, x))


@torch.no_grad()
def test_hidden_maps_that_negate_leave_nothing_behind_a_relu():
    """relu(-relu(h)) = 0, while relu(relu(h)) = relu(h)."""
    deep, plain, x = ffn("deep_mlp", num_hidden=3), ffn("mlp"), activations()
    plain.load_state_dict(deep.state_dict(), strict=False)
    for proj in deep.hidden_proj:
        proj.weight.copy_(torch.eye(16))
    assert_equal(output(deep, x), output(plain, x))
    deep.hidden_proj[0].weight.neg_()
    assert not output(deep, x).any()
