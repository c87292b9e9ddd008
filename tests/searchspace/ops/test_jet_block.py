"""Jet block: values through a convolution that each token makes for itself, then the gated delta rule."""

from typing import Any

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import activations, assert_equal, build, output
from tests.searchspace.ops.written_out import delta_rule, heads, rms, unit

DEFINING_TERM = (
    "taps = F.linear(F.silu(F.linear(x, self.taps_reduce)), self.taps_expand, self.taps_bias)",
    "taps = self.taps_bias.expand(*x.shape[:2], -1)",
)
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 1,
    "head_dim": 4,
    "conv_taps": 3,
    "beta_max": 1,
}


def jet() -> Any:
    torch.manual_seed(0)
    module = build("mixer", "jet_block", **SETTINGS)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    return module


def test_it_is_the_loop_of_the_paper():
    module, x = jet(), activations(20)
    B, T, taps = 2, 20, 3
    kernels = F.silu(x @ module.taps_reduce.T) @ module.taps_expand.T + module.taps_bias
    kernels, values = kernels.view(B, T, 8, taps), module.v_proj(x)
    v = torch.zeros_like(values)
    for t in range(T):
        for i in range(min(taps, t + 1)):
            v[:, t] += kernels[:, t, :, i] * values[:, t - i]
    q, k = unit(F.silu(heads(module.q_proj(x), 2))), unit(F.silu(heads(module.k_proj(x), 2)))
    step = F.softplus(x @ module.step_weight.T + module.step_bias)
    a = torch.exp(-module.log_rate.exp() * step).unsqueeze(-1).expand_as(k)
    o = delta_rule(q, k, heads(F.silu(v), 2), a, torch.sigmoid(x @ module.beta_weight.T))
    expected = module.o_proj((module.norm_weight * rms(o)).flatten(2) * F.silu(module.gate_proj(x)))
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_taps_that_no_token_changes_are_a_convolution_as_others_have():
    module, gated = jet(), build("mixer", "gated_deltanet", **SETTINGS)
    module.taps_expand.data.zero_()
    gated.load_state_dict({n: module.state_dict().get(n, t) for n, t in gated.state_dict().items()})
    gated.v_conv.weight.data.copy_(module.taps_bias.view(8, 3))
    for conv in (gated.q_conv, gated.k_conv):
        conv.weight.data.zero_()
        conv.weight.data[:, 0] = 1.0
    x = activations(20)
    assert_equal(output(module, x), output(gated, x))
