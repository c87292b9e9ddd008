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
    """The same function as the reference, in matrix products over chunks of `chunk` tokens.

    Sums in at least float32, the precision of the state; o comes back in the precision of q.
    """
    B, T, G, _, K = q.shape
    given, dtype = q.dtype, state_dtype(q.dtype)
    S = q.new_zeros(B, G, K, v.shape[-1], dtype=dtype) if S is None else S
    q = q.to(dtype).permute(0, 2, 3, 1, 4)  # [B, G, R, T, K]
    k, v = k.to(dtype).transpose(1, 2), v.to(dtype).transpose(1, 2)  # [B, G, T, K]
    decay = None if log_a is None else log_a.to(dtype).transpose(1, 2)
    outputs = []
    for start in range(0, T, chunk):
        part = slice(start, min(start + chunk, T))
        kept = None if decay is None else decay[:, :, part]
        o, S = _one_chunk(q[:, :, :, part], k[:, :, part], v[:, :, part], kept, S)
        outputs.append(o)
    return torch.cat(outputs, 3).permute(0, 3, 1, 2, 4).to(given), S


def _one_chunk(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """q [B, G, R, C, K], k and log_a [B, G, C, K], v [B, G, C, V], S [B, G, K, V] -> o [B, G, R, C, V], S."""
    R, C = q.shape[2:4]
    causal = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
    if log_a is None:
        scores = (q.flatten(2, 3) @ k.mT).unflatten(2, (R, C)) * causal
        o = scores.flatten(2, 3) @ v + q.flatten(2, 3) @ S
        return o.unflatten(2, (R, C)), S + k.mT @ v
    total = log_a.cumsum(2)
    between = (total.unsqueeze(3) - total.unsqueeze(2)).masked_fill(~causal.unsqueeze(-1), -torch.inf)
    decayed_keys = between.exp() * k.unsqueeze(2)  # [B, G, i, j, K]
    scores = (q.transpose(2, 3) @ decayed_keys.mT).transpose(2, 3)  # [B, G, R, i, j]
    o = scores.flatten(2, 3) @ v + (q * total.exp().unsqueeze(2)).flatten(2, 3) @ S
    to_end = (total[:, :, -1:] - total).exp() * k
    return o.unflatten(2, (R, C)), total[:, :, -1].exp().unsqueeze(-1) * S + to_end.mT @ v


def sum_over_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """o_i = (sum over all j of k_j v_j^T)^T q_i: what a recurrence without decay becomes when nothing is hidden."""
    S = k.transpose(1, 2).mT @ v.transpose(1, 2)  # [B, G, K, V]
    o = q.transpose(1, 2).flatten(2, 3) @ S  # [B, G, T R, V]
    return o.unflatten(2, q.shape[1:4:2]).transpose(1, 2)


def chunked_flops(T: int, H: int, G: int, K: int, V: int, chunk: int = CHUNK) -> int:
    """Multiply-adds (as 2) of the chunked form on one sequence, the masked half of a chunk counted."""
    sizes = [min(chunk, T - start) for start in range(0, T, chunk)]
    return sum(2 * H * C * C * (K + V) + 2 * H * C * K * V + 2 * G * C * K * V for C in sizes)


def sum_over_all_flops(T: int, H: int, G: int, K: int, V: int) -> int:
    return 2 * T * (G + H) * K * V


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Recurrent states add up over the whole sequence: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def state_bytes(G: int, K: int, V: int, bytes_per_value: int) -> int:
    return G * K * V * max(4, bytes_per_value)
