"""A gated linear unit multiplies two projections of the same token."""

import pytest
import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.down_proj(gate * up)", "self.down_proj(gate + up)")


def glu(activation: str, hidden_norm: bool = False, d_ff: int = 16):
    return build("ffn", "glu", d_ff=d_ff, activation=OpSpec(activation), hidden_norm=hidden_norm)


def test_with_silu_it_is_swiglu():
    ffn, swiglu, x = glu("silu"), build("ffn", "swiglu", d_ff=16), activations()
    swiglu.load_state_dict(ffn.state_dict())
    assert_equal(output(ffn, x), output(swiglu, x))


def test_with_the_identity_it_is_bilinear():
    ffn, x = glu("identity"), activations()
    assert_equal(output(ffn, -2 * x), 4 * output(ffn, x))


def test_a_closed_sigmoid_gate_passes_half_of_the_linear_map():
    ffn, x = glu("logistic_sigmoid"), activations()
    ffn.gate_proj.weight.data.zero_()
    assert_equal(output(ffn, x), x @ (ffn.down_proj.weight @ ffn.up_proj.weight).T / 2)


def test_with_the_norm_the_scale_of_the_hidden_units_is_lost():
    ffn, x = glu("identity", hidden_norm=True), activations()
    torch.testing.assert_close(output(ffn, 100 * x), output(ffn, x), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("hidden_norm", [False, True])
def test_a_permutation_of_the_tokens_permutes_the_outputs(hidden_norm: bool):
    ffn, x, order = glu("gelu", hidden_norm), activations(), torch.randperm(9)
    assert_equal(output(ffn, x[:, order]), output(ffn, x)[:, order])
