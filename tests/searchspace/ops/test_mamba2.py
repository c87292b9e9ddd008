"""Mamba-2 as the paper's recurrence, and what it is without steps and without decay."""

from typing import Any

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.written_out import heads, rms, short_conv

DEFINING_TERM = (
    "return step, -(self.ssd_log_rate.exp() * step).unsqueeze(-1)",
    "return step, -self.ssd_log_rate.exp().expand_as(step).unsqueeze(-1)",
)
G, R, K, N = 2, 2, 4, 3


def mamba2() -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "num_groups": G,
        "heads_per_group": R,
        "head_dim": K,
        "num_states": N,
        "conv_taps": 4,
    }
    module = build("mixer", "mamba2", **settings)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    return module


def test_it_is_the_recurrence_of_the_paper():
    """Each head by itself: h = exp(-e^A s) h + s B u^T, y = C h + D u, then norm of the gated y over a group."""
    module, x = mamba2(), activations(70)
    convolved = [
        short_conv(projection(x), conv.weight, getattr(module, f"ssd_{name}_bias"))
        for name, projection, conv in module.paths()
    ]
    u, keys, queries = heads(convolved[0], G * R), heads(convolved[1], G), heads(convolved[2], G)
    step = F.softplus(x @ module.ssd_step_weight.T + module.ssd_step_bias)
    y = torch.zeros_like(u)
    for b in range(len(x)):
        for h in range(G * R):
            S = x.new_zeros(K, N)
            for t in range(x.shape[1]):
                s = step[b, t, h]
                S = torch.exp(-s * module.ssd_log_rate[h].exp()) * S
                S = S + s * torch.outer(u[b, t, h], keys[b, t, h // R])
                y[b, t, h] = S @ queries[b, t, h // R] + module.ssd_skip[h] * u[b, t, h]
    gated = heads(y.flatten(2) * F.silu(module.ssd_gate_proj(x)), G)
    expected = module.ssd_down_proj(module.ssd_norm_weight * rms(gated, 1e-5).flatten(2))
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_without_steps_only_the_skip_is_left():
    module, x = mamba2(), activations(20)
    module.ssd_step_weight.data.zero_()
    torch.nn.init.constant_(module.ssd_step_bias, -1e4)
    u = short_conv(module.ssd_u_proj(x), module.ssd_u_conv.weight, module.ssd_u_bias)
    u = heads(u, G * R)
    assert_equal(output(module, x), module.output(torch.zeros_like(u), u, x))


def test_the_steps_start_between_a_thousandth_and_a_tenth():
    steps = F.softplus(build("mixer", "mamba2", **SMALL).ssd_step_bias)
    assert (steps > 0.9e-3).all()
    assert (steps < 1.1e-1).all()


SMALL: dict[str, Any] = {
    "num_groups": 1,
    "heads_per_group": 4,
    "head_dim": 4,
    "num_states": 4,
    "conv_taps": 2,
}
