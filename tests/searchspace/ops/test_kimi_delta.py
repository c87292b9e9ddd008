"""Kimi delta attention between the paper's loop and Gated DeltaNet."""

from typing import Any

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, build, output
from tests.searchspace.ops.written_out import delta_rule, heads, rms, short_conv, unit

DEFINING_TERM = ("step.unflatten(2, (self.G, self.K))", "step.unflatten(2, (self.G, self.K))[..., :1]")
SETTINGS: dict[str, Any] = {
    "num_groups": 2,
    "heads_per_group": 1,
    "head_dim": 4,
    "conv_taps": 4,
    "beta_max": 1,
}


def kimi() -> Any:
    torch.manual_seed(0)
    module = build("mixer", "kimi_delta", **SETTINGS)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    return module


def test_it_is_the_loop_of_the_paper():
    module, x = kimi(), activations(70)
    q, k, v = (heads(short_conv(projection(x), conv.weight), 2) for _, projection, conv in module.paths())
    step = F.softplus(x @ module.fade_reduce.T @ module.fade_expand.T + module.fade_bias)
    a = torch.exp(-module.log_rate.exp()[:, None] * heads(step, 2))
    o = delta_rule(unit(q), unit(k), v, a, torch.sigmoid(x @ module.beta_weight.T))
    gate = torch.sigmoid(x @ module.gate_reduce.T @ module.gate_expand.T)
    expected = module.o_proj((module.norm_weight * rms(o)).flatten(2) * gate)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_with_one_decay_for_all_channels_it_is_the_gated_delta_rule():
    module, gated = kimi(), build("mixer", "gated_deltanet", **SETTINGS)
    module.fade_expand.data.zero_()
    module.fade_bias.data.view(2, 4)[:] = module.fade_bias.data.view(2, 4)[:, :1]
    gated.load_state_dict({n: module.state_dict().get(n, t) for n, t in gated.state_dict().items()})
    gated.step_weight.data.zero_()
    gated.step_bias.data.copy_(module.fade_bias.data.view(2, 4)[:, 0])
    x = activations(20)
    beta, decay = gated.gates(x, Tokens())
    ours = module.gates(x, Tokens())
    torch.testing.assert_close(ours[0], beta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours[1], decay.expand_as(ours[1]), rtol=1e-12, atol=1e-12)
