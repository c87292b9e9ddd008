"""mLSTM: the paper's memory without any stabiliser, and gates far beyond what exp can hold."""

import math
from typing import Any

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, build, output
from tests.searchspace.ops.written_out import heads

DEFINING_TERM = ("k = k * (log_i - largest).exp().unsqueeze(-1)", "k = k * log_i.exp().unsqueeze(-1)")
SETTINGS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}


def mlstm(**more: Any) -> Any:
    torch.manual_seed(0)
    module = build("mixer", "mlstm", **SETTINGS, **more)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    module.own("input_gate_bias").data.fill_(0.5)
    return module


def capped(z: torch.Tensor) -> torch.Tensor:
    return 15 * torch.tanh(z / 15)


def expected(module: Any, x: torch.Tensor) -> torch.Tensor:
    """C = f C + i v k^T, n = f n + i k, h = C q / max(|n q|, 1), as printed."""
    G, K = module.G, module.K
    q, k, v = (heads(p(x), G) for p in (module.q_proj, module.k_proj, module.own("v_proj")))
    weights = ((module.own(f"{g}_gate_weight"), module.own(f"{g}_gate_bias")) for g in ("input", "forget"))
    i, f = (capped(x @ weight.T + bias) for weight, bias in weights)
    i, f = i.exp(), torch.sigmoid(f)
    h = torch.zeros_like(v)
    for b in range(len(x)):
        for g in range(G):
            C, n = x.new_zeros(v.shape[-1], K), x.new_zeros(K)
            for t in range(x.shape[1]):
                C = f[b, t, g] * C + i[b, t, g] * torch.outer(v[b, t, g], k[b, t, g])
                n = f[b, t, g] * n + i[b, t, g] * k[b, t, g]
                query = q[b, t, g] / math.sqrt(K)
                h[b, t, g] = C @ query / (n @ query).abs().clamp_min(1.0)
    h = F.layer_norm(h, h.shape[-1:], None, None, 1e-6) * module.own("norm_weight")
    y: torch.Tensor = module.own("o_proj")(torch.sigmoid(module.own("gate_proj")(x)) * h.flatten(2))
    return y


def test_it_is_the_memory_of_the_paper_with_values_as_wide_as_keys_and_wider():
    x = activations(70)
    for more in ({}, {"expand_v": 2}):
        module = mlstm(**more)
        wanted = expected(module, x)
        torch.testing.assert_close(output(module, x), wanted, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), wanted, rtol=1e-5, atol=1e-5)


def test_float32_holds_what_the_plain_memory_cannot():
    """Inputs of e^15 after each other, then of e^-15: the plain sums would need ten digits more than there are."""
    module = mlstm().float()
    module.input_gate_weight.data.zero_()
    x = activations(40).float()
    outputs = []
    for bias in (1e4, -1e4):
        module.input_gate_bias.data.fill_(bias)
        outputs.append(output(module, x))
        assert outputs[-1].isfinite().all()
    assert not torch.equal(*outputs)


def test_a_sequence_behind_padding_is_the_sequence():
    module, x = mlstm(), activations(12)
    valid = torch.arange(12).expand(2, 12) >= 5
    y = output(module, x, Tokens(valid=valid))
    torch.testing.assert_close(y[:, 5:], output(module, x[:, 5:]), rtol=1e-9, atol=1e-9)
