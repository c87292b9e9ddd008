"""Causal softmax attention to the last w tokens, in blocks, so that no T x T matrix is created.

Blocks of c = min(w, T) queries see the w - 1 + c keys up to their last query; a decoder keeps the last w - 1 keys and
values. The sums are returned undivided, so that a mixer can add other terms to them:

    m_i = max_j s_ij          total_i = sum_j exp(s_ij - m_i)          sum_i = sum_j exp(s_ij - m_i) v_j

over i - w < j <= i that are not padding, s_ij = q_i . k_j / sqrt(K). Where a query sees no key, all sums are 0.
Shapes: B batch, T new tokens, w window, G groups, R heads per group, K key dim, V value dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.context import State


def extended(x: Tensor, window: int, kept: Tensor | None) -> Tensor:
    """x [B, T, ...] after the w - 1 tokens before it, `kept` [B, <= w - 1, ...] padded with 0 at the front."""
    seen = x if kept is None else torch.cat((kept, x), 1)
    missing = window - 1 + x.shape[1] - seen.shape[1]
    return F.pad(seen, (0, 0) * (x.dim() - 2) + (missing, 0))


def banded_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, valid: Tensor | None, num_kept: int = 0
) -> tuple[Tensor, Tensor]:
    """Return (sum [B, T, G, R, V], total [B, T, G, R, 1]) in at least the precision of q.

    q [B, T, G, R, K]; k and v [B, w - 1 + T, G, .] as `extended` returns them, where the first w - 1 - num_kept rows
    are empty; valid [B, T] is for the new tokens.
    """
    B, T, G, R, K = q.shape
    c = min(window, T)
    n = -(-T // c)
    real = torch.ones(B, T, dtype=torch.bool, device=q.device) if valid is None else valid
    real = F.pad(F.pad(real, (num_kept, 0), value=True), (window - 1 - num_kept, n * c - T))
    q = F.pad(q, (0, 0, 0, 0, 0, 0, 0, n * c - T)).unflatten(1, (n, c)).permute(0, 3, 1, 4, 2, 5)
    k, v = (blocks(x, n, c, window) for x in (k, v))  # [B, G, n, S, .]
    places = torch.arange(window - 1 + c, device=q.device) - torch.arange(c, device=q.device).unsqueeze(-1)
    seen = (places >= 0) & (places < window)  # [c, S]
    seen = seen & real.unfold(1, window - 1 + c, c)[:, None, :, None, None]  # [B, 1, n, 1, c, S]
    scores = (q.flatten(3, 4) @ k.mT).unflatten(3, (R, c)) / math.sqrt(K)  # [B, G, n, R, c, S]
    top = scores.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True)
    top = torch.where(seen.any(-1, keepdim=True), top, 0.0)
    weights = (scores - top).masked_fill(~seen, -torch.inf).exp()
    sums = (weights.flatten(3, 4) @ v).unflatten(3, (R, c))
    total = weights.sum(-1, keepdim=True)
    return tuple(x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, :T] for x in (sums, total))


def blocks(x: Tensor, n: int, c: int, window: int) -> Tensor:
    """x [B, w - 1 + T, G, K] -> the keys of each block of queries [B, G, n, w - 1 + c, K]."""
    missing = n * c + window - 1 - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)).unfold(1, window - 1 + c, c).permute(0, 2, 1, 4, 3)


def banded_reference(
    q: Tensor, k: Tensor, v: Tensor, window: int, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `banded_attention`, by a weight for each pair of tokens; q [B, T, G, R, K], k and v [B, T, G, .]."""
    B, T, G, R, K = q.shape
    scores = torch.einsum("bigrk,bjgk->bigrj", q, k) / math.sqrt(K)
    seen = torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window).view(1, T, 1, 1, T)
    seen = seen if valid is None else seen & valid[:, None, None, None]
    weights = torch.zeros_like(scores)
    for i in range(T):
        row = scores[:, i].masked_fill(~seen[:, i], -1e30)
        top = row.amax(-1, keepdim=True)
        weights[:, i] = (row - top).exp() * seen[:, i]
    return torch.einsum("bigrj,bjgv->bigrv", weights, v), weights.sum(-1, keepdim=True)


def banded_flops(T: int, window: int, H: int, K: int, V: int) -> int:
    c = min(window, T)
    return 2 * -(-T // c) * c * (window - 1 + c) * H * (K + V)


def cut(x: Tensor, num_kept: int) -> Tensor:
    """A copy of the last tokens of x [B, S, ...], which keeps nothing else in memory."""
    return x[:, x.shape[1] - num_kept :].clone()


def divided(sums: Tensor, total: Tensor) -> Tensor:
    """sums / total, 0 where total is 0. `total` [...] broadcasts to `sums`."""
    return sums / torch.where(total > 0, total, 1.0)


def after(state: State, k: Tensor, v: Tensor, window: int) -> State:
    """The cache after k and v [B, w - 1 + T, G, .], which include T new tokens."""
    num_tokens = state["num_tokens"] + k.shape[1] - (window - 1)
    kept = min(num_tokens, window - 1)
    return {"k": cut(k, kept), "v": cut(v, kept), "num_tokens": num_tokens}
