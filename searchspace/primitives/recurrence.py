"""Gated linear recurrence with grouped query heads, shared by all mixers that are special cases of it.

    S' = diag(a_t) S_{t-1}          S_t = S' + k_t u_t^T          o_t = S_t^T q_t          log a_t = `log_a`
    u_t = v_t (add)   or   beta_t (v_t - S'^T k_t) (delta)

The order is decay, write, read, so a token sees itself. The R query heads of a group read the same state. The decay is
none (`log_a` None), one number per group (last axis 1) or one per key channel. The delta rule (`beta` given) replaces
the state's answer to k_t; its keys must have norm 1, otherwise the solve within a chunk diverges. A mixer that divides
by the sum of its weights gives v a last column of ones. Shapes: q [B, T, G, R, K], k [B, T, G, K], v [B, T, G, V],
log_a [B, T, G, 1 or K], beta [B, T, G], state S [B, G, K, V], o [B, T, G, R, V]. Chunked forms: Yang et al.,
arXiv:2312.06635 (vector decay in two levels) and arXiv:2406.06484 (delta rule). Exponents are always differences of
prefix sums within a chunk, later minus earlier, hence at most 0: nothing overflows, however strong the decay.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch

CHUNK = 64
SUB_CHUNK = 16


def recurrence_reference(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor | None = None, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token by token. Returns (o [B, T, G, R, V], last state [B, G, K, V])."""
    B, T, G, _, K = q.shape
    S = q.new_zeros(B, G, K, v.shape[-1]) if S is None else S
    outputs = []
    for t in range(T):
        if log_a is not None:
            S = log_a[:, t].exp().unsqueeze(-1) * S
        u = v[:, t]
        if beta is not None:
            u = beta[:, t].unsqueeze(-1) * (u - torch.einsum("bgkv,bgk->bgv", S, k[:, t]))
        S = S + k[:, t].unsqueeze(-1) * u.unsqueeze(-2)
        outputs.append(torch.einsum("bgrk,bgkv->bgrv", q[:, t], S))
    return torch.stack(outputs, 1), S


def recurrence_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor | None,
    S: Tensor | None = None,
    chunk: int = CHUNK,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (o [B, T, G, R, V], last state) as the reference does, by matrix products over chunks of `chunk` tokens.

    Sums are in at least float32, the precision of the state; o has the dtype of q.
    """
    kernel = dispatch.kernel("recurrence" if beta is None else "delta_rule", q.device, q)
    if beta is not None and log_a is not None and log_a.shape[-1] > 1:
        kernel = None  # the kernel of the delta rule has one decay for all key channels
    if kernel is not None:
        return kernel(q, k, v, log_a, S, chunk, *(() if beta is None else (beta,)))
    B, T, G, _, K = q.shape
    given, dtype = q.dtype, state_dtype(q.dtype)
    S = q.new_zeros(B, G, K, v.shape[-1], dtype=dtype) if S is None else S
    q = q.to(dtype).permute(0, 2, 3, 1, 4)  # [B, G, R, T, K]
    k, v = k.to(dtype).transpose(1, 2), v.to(dtype).transpose(1, 2)  # [B, G, T, K]
    lengths = chunk_lengths(T, chunk)
    decays = [None] * len(lengths) if log_a is None else log_a.to(dtype).transpose(1, 2).split(lengths, 2)
    betas = [None] * len(lengths) if beta is None else beta.to(dtype).transpose(1, 2).split(lengths, 2)
    parts = zip(q.split(lengths, 3), k.split(lengths, 2), v.split(lengths, 2), decays, betas, strict=True)
    outputs = []
    for q_part, k_part, v_part, decay, write in parts:
        o, S = _one_chunk(q_part, k_part, v_part, decay, write, S)
        outputs.append(o)
    return torch.cat(outputs, 3).permute(0, 3, 1, 2, 4).to(given), S


def chunk_lengths(T: int, chunk: int = CHUNK) -> list[int]:
    """Return whole chunks, then whole sub-chunks, then the rest: nothing is ever padded.

    A single chunk where `T` is symbolic in a trace, since the number of chunks would depend on it.
    """
    if isinstance(T, torch.SymInt):
        return [T]
    whole, rest = divmod(T, chunk)
    lengths = [chunk] * whole + [rest - rest % SUB_CHUNK, rest % SUB_CHUNK]
    return [length for length in lengths if length]


def _one_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, beta: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """q [B, G, R, C, K], k [B, G, C, K], v [B, G, C, V], log_a [B, G, C, 1 or K], beta [B, G, C], S [B, G, K, V].

    Returns o [B, G, R, C, V] and the state after the chunk.
    """
    total = None if log_a is None else log_a.cumsum(2)
    since_start = q.new_ones(1, 1, 1) if total is None else total.exp()
    if beta is not None:
        old = (k * since_start) @ S
        v = _solved(k, beta.unsqueeze(-1) * (v - old), beta, total)
    o = pairs(q, k, total).flatten(2, 3) @ v + (q * since_start.unsqueeze(-3)).flatten(2, 3) @ S
    o = o.unflatten(2, q.shape[2:4])
    if total is None:
        return o, S + k.mT @ v
    to_end = (total[:, :, -1:] - total).exp() * k
    return o, total[:, :, -1].exp().unsqueeze(-1) * S + to_end.mT @ v


def _solved(k: Tensor, u: Tensor, beta: Tensor, total: Tensor | None) -> Tensor:
    """What each token writes, given the writes of earlier tokens of the chunk: (I + L)^{-1} u."""
    L = beta.unsqueeze(-1) * pairs(k.unsqueeze(2), k, total)[:, :, 0]
    return torch.linalg.solve_triangular(L, u, upper=False, unitriangular=True)


def pairs(q: Tensor, k: Tensor, total: Tensor | None) -> Tensor:
    """Return sum_c q_ic k_jc exp(total_ic - total_jc) for j <= i, 0 for later j: [B, G, R, C, C]."""
    if total is not None and total.shape[-1] > 1:
        return _pairs_in_two_levels(q, k, total)
    products = (q.flatten(2, 3) @ k.mT).unflatten(2, q.shape[2:4])
    if total is None:
        return products.tril()
    return products * _until(total, total).squeeze(-1).unsqueeze(2)


def _until(later: Tensor, earlier: Tensor) -> Tensor:
    """exp(later_i - earlier_j) for j <= i, else 0: [..., C, K] twice -> [..., C, C, K]."""
    C = later.shape[-2]
    causal = torch.ones(C, C, dtype=torch.bool, device=later.device).tril().unsqueeze(-1)
    return (later.unsqueeze(-2) - earlier.unsqueeze(-3)).masked_fill(~causal, -torch.inf).exp()


def _pairs_in_two_levels(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """Pairs within a sub-chunk by their own exponents, others through the start of the query's sub-chunk."""
    C = k.shape[2]
    c = C if isinstance(C, torch.SymInt) else min(SUB_CHUNK, C)  # no sub-chunks where C is symbolic
    n = C // c
    q, k_in, total_in = q.unflatten(3, (n, c)), k.unflatten(2, (n, c)), total.unflatten(2, (n, c))
    decayed = _until(total_in, total_in) * k_in.unsqueeze(3)  # [B, G, n, i, j, K]
    near = (q.permute(0, 1, 3, 4, 2, 5) @ decayed.mT).permute(0, 1, 4, 3, 5, 2)  # [B, G, R, i, j, n]
    if n == 1:
        return near.squeeze(-1)
    pairs = torch.diag_embed(near).permute(0, 1, 2, 5, 3, 6, 4).flatten(5, 6).flatten(3, 4)
    start = total_in[:, :, :-1, -1:]  # [B, G, n - 1, 1, K], the decay up to each later sub-chunk
    late_q = q[:, :, :, 1:] * (total_in[:, :, 1:] - start).exp().unsqueeze(2)
    early = torch.arange(C - c, device=k.device) < c * torch.arange(1, n, device=k.device).unsqueeze(-1)
    gap = (start - total[:, :, None, : C - c]).masked_fill(~early.unsqueeze(-1), -torch.inf)
    early_k = gap.exp() * k[:, :, None, : C - c]  # [B, G, n - 1, C - c, K]
    far = late_q.transpose(2, 3).flatten(3, 4) @ early_k.mT
    far = far.unflatten(3, (-1, c)).transpose(2, 3).flatten(3, 4)  # [B, G, R, C - c, C - c]
    return pairs + F.pad(far, (0, c, c, 0))


def sum_over_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return o_i = (sum over all j of k_j v_j^T)^T q_i [B, T, G, R, V]: the bidirectional form without decay."""
    S = k.transpose(1, 2).mT @ v.transpose(1, 2)  # [B, G, K, V]
    o = q.transpose(1, 2).flatten(2, 3) @ S  # [B, G, T R, V]
    return o.unflatten(2, q.shape[1:4:2]).transpose(1, 2)


def chunked_flops(
    T: int,
    H: int,
    G: int,
    K: int,
    V: int,
    chunk: int = CHUNK,
    vector_decay: bool = False,
    delta: bool = False,
) -> int:
    """Return the multiply-adds (as 2) of the chunked form on one sequence, including the masked half of a chunk.

    The triangular solve of the delta rule (G C^2 V per chunk of C tokens) is left out, as in torch's counter.
    """

    flops = 0
    for C in chunk_lengths(T, chunk):
        flops += pairs_flops(H, K, C, vector_decay) + 2 * H * C * C * V + 2 * (G + H) * C * K * V
        flops += pairs_flops(G, K, C, vector_decay) + 2 * G * C * K * V if delta else 0
    return flops


def pairs_flops(heads: int, K: int, C: int, vector_decay: bool) -> int:
    """Return the FLOPs of `pairs` for a chunk of C tokens."""
    c = min(SUB_CHUNK, C)
    return 2 * heads * K * (C * c + (C - c) ** 2 if vector_decay else C * C)


def sum_over_all_flops(T: int, H: int, G: int, K: int, V: int) -> int:
    return 2 * T * (G + H) * K * V


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of recurrent states: at least float32, since they sum over the whole sequence."""
    return torch.promote_types(dtype, torch.float32)


def empty_state(batch_size: int, G: int, K: int, V: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the state before the first token [B, G, K, V]."""
    return torch.zeros(batch_size, G, K, V, device=device, dtype=state_dtype(dtype))
