"""Gated DeltaNet between DeltaNet and no memory."""

from typing import Any

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = (
    "turn = turn if log_a is None else log_a[:, t].exp().unsqueeze(-1) * turn",
    "turn = turn",
    "searchspace/primitives/delta.py",
)
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 2,
    "head_dim": 4,
    "conv_taps": 2,
    "beta_max": 1,
}


def test_without_fading_it_is_deltanet_behind_a_gate():
    gated, plain = build("mixer", "gated_deltanet", **SETTINGS), build("mixer", "deltanet", **SETTINGS)
    torch.nn.init.constant_(gated.log_rate, -1e4)
    plain.load_state_dict({n: t for n, t in gated.state_dict().items() if n in plain.state_dict()})
    x = activations(20)
    for module in (gated, plain):
        module.o_proj = torch.nn.Identity()
    assert_equal(output(gated, x), output(plain, x) * F.silu(gated.gate_proj(x)))


def test_a_state_that_fades_at_once_sees_what_the_convolution_sees():
    module, x = build("mixer", "gated_deltanet", **SETTINGS), activations(20)
    torch.nn.init.constant_(module.log_rate, 10.0)
    torch.nn.init.constant_(module.step_bias, 10.0)
    assert_equal(output(module, x)[:, 9], output(module, x[:, 8:10])[:, 1])


def test_the_step_starts_between_a_thousandth_and_a_tenth():
    module = build("mixer", "gated_deltanet", **SETTINGS)
    expected = torch.tensor([1e-3, 1e-1], dtype=torch.float64)
    torch.testing.assert_close(F.softplus(module.step_bias), expected, rtol=1e-4, atol=0)
