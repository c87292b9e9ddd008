"""Gated linear recurrence with query heads in groups, once for every mixer that is a setting of it.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T          o_t = S_t^T q_t          a_t in (0, 1]^K, log a_t = `log_a`

The order is decay, write, read, so a token sees itself. The R query heads of a group read the same state. Without decay
(`log_a` None) this is plain linear attention.
Shapes: q [B, T, G, R, K], k and log_a [B, T, G, K], v [B, T, G, V], state S [B, G, K, V], o [B, T, G, R, V].
Chunked form: Yang et al., arXiv:2312.06635. Exponents are always differences of prefix sums within a chunk, later minus
earlier, hence at most 0: nothing overflows however strong the decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 16


def recurrence_reference(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token. Returns (o, last state)."""
    B, T, G, _, K = q.shape
    S = q.new_zeros(B, G, K, v.shape[-1]) if S is None else S
    outputs = []
    for t in range(T):
        if log_a is not None:
            S = log_a[:, t].exp().unsqueeze(-1) * S
        S = S + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(torch.einsum("bgrk,bgkv->bgrv", q[:, t], S))
    return torch.stack(outputs, 1), S


def recurrence_chunked(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """The same function as the reference, in matrix products over chunks of `chunk` tokens."""
    B, T, G, _, K = q.shape
    S = q.new_zeros(B, G, K, v.shape[-1]) if S is None else S
    outputs = []
    for start in range(0, T, chunk):
        part = slice(start, min(start + chunk, T))
        decay = None if log_a is None else log_a[:, part]
        o, S = _one_chunk(q[:, part], k[:, part], v[:, part], decay, S)
        outputs.append(o)
    return torch.cat(outputs, 1), S


def _one_chunk(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    C = q.shape[1]
    causal = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    if log_a is None:
        scores = torch.einsum("bigrk,bjgk->bgrij", q, k) * causal
        inner = torch.einsum("bgrij,bjgv->bigrv", scores, v)
        return inner + torch.einsum("bigrk,bgkv->bigrv", q, S), S + torch.einsum("bjgk,bjgv->bgkv", k, v)
    total = log_a.cumsum(1)  # [B, C, G, K]
    between = (total.unsqueeze(2) - total.unsqueeze(1)).masked_fill(~causal[:, :, None, None], -torch.inf)
    decayed_keys = between.exp() * k.unsqueeze(1)  # [B, i, j, G, K]
    scores = torch.einsum("bigrk,bijgk->bgrij", q, decayed_keys)
    inner = torch.einsum("bgrij,bjgv->bigrv", scores, v)
    outer = torch.einsum("bigrk,bgkv->bigrv", q * total.exp().unsqueeze(3), S)
    to_end = (total[:, -1:] - total).exp() * k
    S = total[:, -1].exp().unsqueeze(-1) * S + torch.einsum("bjgk,bjgv->bgkv", to_end, v)
    return inner + outer, S


def chunked_flops(T: int, H: int, G: int, K: int, V: int, chunk: int = CHUNK) -> int:
    """Multiply-adds (as 2) of the chunked form on one sequence, the masked half of a chunk counted."""
    sizes = [min(chunk, T - start) for start in range(0, T, chunk)]
    return sum(2 * H * C * C * (K + V) + 2 * H * C * K * V + 2 * G * C * K * V for C in sizes)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Recurrent states add up over the whole sequence: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def state_bytes(G: int, K: int, V: int, bytes_per_value: int) -> int:
    return G * K * V * max(4, bytes_per_value)
