"""Log-linear attention by the paper's spans, and what it is when all levels weigh the same."""

from typing import Any

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from searchspace.primitives.recurrence import recurrence_reference
from tests.searchspace.ops.identities import activations, build, output
from tests.searchspace.ops.written_out import heads, rms

DEFINING_TERM = ("differing = later.unsqueeze(-1) ^ earlier", "differing = later.unsqueeze(-1) - earlier")
SETTINGS: dict[str, Any] = {"num_groups": 2, "heads_per_group": 1, "head_dim": 4}


def log_linear(num_levels: int) -> Any:
    torch.manual_seed(0)
    module = build("mixer", "log_linear_attention", **SETTINGS, num_levels=num_levels)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    return module


def spans(t: int) -> list[tuple[int, int, int]]:
    """(level, first, end) of what token t sees: itself, then as many before as the lowest bit of where that began."""
    found, end = [(0, t, t + 1)], t
    while end > 0:
        size = end & -end
        found.append((size.bit_length(), end - size, end))
        end -= size
    return found


def test_it_reads_a_state_of_each_span_of_the_paper():
    for num_levels in (4, 9):
        module, x = log_linear(num_levels), activations(70, B=1)
        q, k, v = (heads(p(x), 2) for p in (module.q_proj, module.k_proj, module.v_proj))
        a = torch.exp(-module.log_rate.exp() * F.softplus(x @ module.step_weight.T + module.step_bias))
        weights = heads(F.softplus(x @ module.level_weight.T + module.level_bias), 2)
        o = torch.zeros_like(v)
        for h in range(2):
            for t in range(70):
                for level, first, end in spans(t):
                    kept = a[0, : t + 1, h].flip(0).cumprod(0).flip(0) / a[0, : t + 1, h]
                    S = torch.einsum("s,sk,sv->kv", kept[first:end], *(z[0, first:end, h] for z in (k, v)))
                    o[0, t, h] += weights[0, t, h, min(level, num_levels - 1)] * (S.T @ q[0, t, h])
        expected = module.o_proj((module.norm_weight * rms(o)).flatten(2) * F.silu(module.gate_proj(x)))
        torch.testing.assert_close(output(module, x), expected, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


def test_where_all_levels_weigh_the_same_one_state_is_enough():
    module, x = log_linear(5), activations(40)
    module.level_weight.data.zero_()
    module.level_bias.data.fill_(0.3)
    q, k, v, log_a, weights = module.parts(x, Tokens())
    rows = (t.transpose(1, 2) for t in (k, v, log_a))
    o, _ = recurrence_reference(q.permute(0, 3, 1, 2, 4), *rows)
    torch.testing.assert_close(
        output(module, x), module.output(weights[0, 0, 0, 0] * o, x), rtol=1e-9, atol=1e-9
    )
