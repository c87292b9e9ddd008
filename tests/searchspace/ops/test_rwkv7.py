"""RWKV-7 as the paper's loop, and what erasing in full does."""

import math
from typing import Any

import torch

from searchspace.primitives.erasing import erasing_chunked
from tests.searchspace.ops.identities import D, activations, build, output

DEFINING_TERM = ("d = tokens.without_padding(self.by_head(a) * e)", "d = 0 * e")
G, K = 2, 4


def rwkv7() -> Any:
    torch.manual_seed(0)
    module = build("mixer", "rwkv7", num_groups=G, head_dim=K, rank=3)
    for tensor in module.parameters():
        tensor.data.add_(torch.randn_like(tensor), alpha=0.3)
    return module


def expected(module: Any, x: torch.Tensor) -> torch.Tensor:
    """With the state as the paper has it, [V, K]: S (diag(w) - e^T (a e)) + v^T k for row vectors."""
    y = torch.zeros_like(x)
    for b in range(len(x)):
        S, before = [x.new_zeros(K, K) for _ in range(G)], x.new_zeros(D)
        for t in range(x.shape[1]):
            token = x[b, t]
            r_in, k_in, v_in, w_in, a_in, g_in = (
                token + getattr(module, f"shift_{name}") * (before - token) for name in "rkvwag"
            )
            before = token
            r, k, v = (
                p.weight @ z
                for p, z in (
                    (module.rwkv_r_proj, r_in),
                    (module.rwkv_k_proj, k_in),
                    (module.rwkv_v_proj, v_in),
                )
            )
            d = module.rwkv_w_expand @ torch.tanh(module.rwkv_w_reduce @ w_in) + module.rwkv_w_bias
            w = torch.exp(-math.exp(-0.5) / (1 + torch.exp(-d)))
            a = torch.sigmoid(module.rwkv_a_expand @ (module.rwkv_a_reduce @ a_in) + module.rwkv_a_bias)
            gate = module.rwkv_g_expand @ torch.sigmoid(module.rwkv_g_reduce @ g_in)
            erased, key = module.rwkv_erase_scale * k, k * (1 + (a - 1) * module.rwkv_key_mix)
            parts = []
            for h in range(G):
                at = slice(h * K, (h + 1) * K)
                e = erased[at] / (erased[at].square().sum() + 1e-6).sqrt()
                S[h] = S[h] @ (torch.diag(w[at]) - torch.outer(e, a[at] * e)) + torch.outer(v[at], key[at])
                o = S[h] @ r[at]
                o = (o - o.mean()) / (o.var(unbiased=False) + 64e-5).sqrt()
                o = o * module.rwkv_norm_weight[at] + module.rwkv_norm_bias[at]
                parts.append(o + (r[at] * key[at] * module.rwkv_bonus[at]).sum() * v[at])
            y[b, t] = module.rwkv_o_proj.weight @ (gate * torch.cat(parts))
    return y


def test_it_is_the_loop_of_the_paper():
    module, x = rwkv7(), activations(70, B=1)
    wanted = expected(module, x)
    torch.testing.assert_close(output(module, x), wanted, rtol=1e-9, atol=1e-9)
    single = output(module.float(), x.float())
    torch.testing.assert_close(single.double(), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_erased_in_full_is_no_longer_held():
    """Without decay, e = d of norm 1 takes all that the state holds under e."""
    T = 20
    k, v, q = (torch.randn(1, T, 1, K, dtype=torch.float64) for _ in range(3))
    e = torch.zeros_like(k)
    e[:, -1] = torch.nn.functional.normalize(k[:, 3], dim=-1)
    k[:, -1] = 0.0
    _, S = erasing_chunked(q, k, v, torch.zeros_like(k), e, e)
    assert S.abs().max() > 0.1
    torch.testing.assert_close(e[0, -1, 0] @ S[0, 0], torch.zeros(K, dtype=torch.float64), rtol=0, atol=1e-12)
