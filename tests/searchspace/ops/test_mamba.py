"""Mamba's scan is the gated linear recurrence with a head per channel and values of one entry."""

import math
from typing import Any

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_reference
from searchspace.primitives.selective_scan import composed
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "return log_a, (step * u).unsqueeze(-1) * B.unsqueeze(2), C",
    "return log_a, u.unsqueeze(-1) * B.unsqueeze(2), C",
    "searchspace/primitives/selective_scan.py",
)


def mamba() -> Any:
    return build("mixer", "mamba", expand=1, num_states=4)


@pytest.mark.parametrize("T", [1, 63, 64, 65, 130])
def test_the_scan_is_the_gated_linear_recurrence(T: int):
    scan, u = mamba().scan, activations(T)
    step = torch.nn.functional.softplus(u @ scan.step_reduce.T @ scan.step_expand.T + scan.step_bias)
    q = (u @ scan.C_weight.T)[:, :, None, None].expand(2, T, D, 1, 4)
    k = step.unsqueeze(-1) * (u @ scan.B_weight.T).unsqueeze(2)
    log_a = -step.unsqueeze(-1) * scan.log_rates.exp()
    o, _ = recurrence_reference(q, k, u.unsqueeze(-1), log_a)
    torch.testing.assert_close(scan(u, None)[0], o[..., 0, 0] + scan.skip * u, rtol=1e-9, atol=1e-9)


def test_a_step_of_nothing_leaves_the_skip():
    module, x = mamba(), activations(20)
    torch.nn.init.constant_(module.scan.step_bias, -1e4)
    u = torch.nn.functional.silu(module.inner_conv(module.inner_proj(x), Tokens())[0])
    assert_equal(output(module, x), module.output(module.scan.skip * u, x))


def test_float32_survives_any_decay():
    log_a = -60.0 * torch.rand(2, 130, 3, 4)
    states = composed(log_a.clone().requires_grad_(), torch.ones(2, 130, 3, 4), torch.zeros(2, 3, 4))
    assert states.isfinite().all()
    assert (states >= 1).all()


def test_constant_input_converges_to_the_geometric_sum():
    log_a = torch.full((1, 500, 1, 1), math.log(0.9), dtype=torch.float64)
    states = composed(log_a, torch.ones_like(log_a), torch.zeros(1, 1, 1, dtype=torch.float64))
    assert_equal(states[0, -1], torch.full((1, 1), (1 - 0.9**500) / 0.1, dtype=torch.float64))
