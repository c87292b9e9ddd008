"""Recurrence whose state decays and loses its content under one vector in the direction of another.

    S_t = (diag(a_t) - d_t e_t^T) S_{t-1} + k_t v_t^T          o_t = S_t^T q_t

The delta rule is e = k, d = beta a k; here the token provides both vectors, and the erased content is read before the
decay (RWKV-7, Peng et al., arXiv:2503.14456). Within a chunk, with G the sum of log a up to a token and
u_i = e_i^T S_{i-1},

    u_i + sum_{j < i} (e_i exp(G_{i-1} - G_j) . d_j) u_j
        = (e_i exp(G_{i-1}))^T S_0 + sum_{j < i} (e_i exp(G_{i-1} - G_j) . k_j) v_j

is one triangular solve, after which -u are the values of the keys d. All exponents are at most 0.
Shapes: q, k, e, d, log_a [B, T, G, K], v [B, T, G, V], state S [B, G, K, V], o [B, T, G, V], C tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.recurrence import CHUNK, chunk_lengths, pairs, pairs_flops, state_dtype


def erasing_reference(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, e: Tensor, d: Tensor) -> Tensor:
    """Return o [B, T, G, V], token by token; q, k, e, d, log_a [B, T, G, K], v [B, T, G, V]."""
    S, outputs = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1]), []
    for t in range(q.shape[1]):
        held = torch.einsum("bgk,bgkv->bgv", e[:, t], S)
        S = log_a[:, t].exp().unsqueeze(-1) * S - d[:, t].unsqueeze(-1) * held.unsqueeze(-2)
        S = S + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(torch.einsum("bgk,bgkv->bgv", q[:, t], S))
    return torch.stack(outputs, 1)


def erasing_chunked(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, e: Tensor, d: Tensor, S: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o [B, T, G, V] in q's dtype and the last state, by matrix products over chunks in at least float32."""
    B, T, G, K = q.shape
    given, dtype = q.dtype, state_dtype(q.dtype)
    S = q.new_zeros(B, G, K, v.shape[-1], dtype=dtype) if S is None else S
    lengths, outputs = chunk_lengths(T), []
    wide = [t.to(dtype).transpose(1, 2).split(lengths, 2) for t in (q, k, v, log_a, e, d)]
    for q_part, k_part, v_part, decay, e_part, d_part in zip(*wide, strict=True):
        o, S = _one_chunk(q_part, k_part, v_part, decay, e_part, d_part, S)
        outputs.append(o)
    return torch.cat(outputs, 2).transpose(1, 2).to(given), S


def _one_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, e: Tensor, d: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """q, k, e, d, log_a [B, G, C, K], v [B, G, C, V], S [B, G, K, V] -> o [B, G, C, V] and the next state."""
    total = log_a.cumsum(2)
    # what token i erases is read like a query of token i - 1
    asking = torch.stack((F.pad(e[:, :, 1:], (0, 0, 0, 1)), q), 2)  # [B, G, 2, C, K]
    (e_k, q_k), (e_d, q_d) = (pairs(asking, keys, total).unbind(2) for keys in (k, d))
    e_k, e_d = (F.pad(later[:, :, :-1], (0, 0, 1, 0)) for later in (e_k, e_d))
    before = (total - log_a).exp()
    held = (e * before) @ S + e_k @ v
    # autocast leaves products in bfloat16, which solves on the CPU do not support
    e_d, held = e_d.to(S.dtype), held.to(S.dtype)
    u = torch.linalg.solve_triangular(e_d, held, upper=False, unitriangular=True)
    o = (q * total.exp()) @ S + q_k @ v - q_d @ u
    to_end = (total[:, :, -1:] - total).exp()
    S = total[:, :, -1].exp().unsqueeze(-1) * S + (to_end * k).mT @ v - (to_end * d).mT @ u
    return o, S


def erasing_flops(T: int, G: int, K: int, V: int) -> int:
    """Return the multiply-adds (as 2) of the chunked form on one sequence, without the solve, like torch's counter."""
    chunks = chunk_lengths(T, CHUNK)
    return sum(2 * pairs_flops(2 * G, K, C, True) + 6 * G * C * C * V + 8 * G * C * K * V for C in chunks)
