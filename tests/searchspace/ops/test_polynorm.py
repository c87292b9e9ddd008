"""PolyNorm forgets the scale of a token and keeps its signs in the odd powers."""

import pytest
import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("power = power * wide", "power = power + wide")


def test_the_scale_of_a_token_is_lost():
    activation, x = build("activation", "polynorm", order=3), activations()
    torch.testing.assert_close(activation(7 * x), activation(x), rtol=1e-4, atol=1e-4)  # but for eps


def test_a_flip_of_sign_turns_the_odd_powers_alone():
    activation, x = build("activation", "polynorm", order=3), activations()
    a = activation.norm_coefficients
    a.data = torch.tensor([0.5, 0.0, 2.0, 0.0]).double()
    assert_equal(activation(-x), activation(x))
    a.data = torch.tensor([0.0, 1.0, 0.0, 2.0]).double()
    assert_equal(activation(-x), -activation(x))


def test_each_power_has_unit_mean_square():
    activation, x = build("activation", "polynorm", order=3), 3 + activations()
    for i in (1, 2, 3):
        activation.norm_coefficients.data = torch.eye(4, dtype=torch.float64)[i]
        mean_square = activation(x).square().mean(-1)
        torch.testing.assert_close(mean_square, torch.ones_like(mean_square), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("kind", "is_slice"), [("polynorm", False), ("polyrelu", True)])
def test_a_narrower_mlp_normalises_over_its_own_units(kind: str, is_slice: bool):
    wide, narrow = (build("ffn", "mlp", d_ff=f, activation=OpSpec.of(kind, order=3)) for f in (32, 8))
    narrow.up_proj.weight.data.copy_(wide.up_proj.weight[:8])
    narrow.down_proj.weight.data.copy_(wide.down_proj.weight[:, :8])
    wide.down_proj.weight.data[:, 8:] = 0
    x = activations()
    assert torch.allclose(output(narrow, x), output(wide, x), rtol=1e-9) == is_slice
