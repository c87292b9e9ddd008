"""Exact merging of softmax attention over disjoint sets of keys, from each part's output and log-sum-exp.

    l = log sum_i exp(l_i)          o = sum_i exp(l_i - l) o_i

A part in which a query sees no key has l_i = -inf and weight 0; where that holds for every part the result is 0.
Shapes: q [N, b, H, K], k and v [N, n, G, K], H = G R heads in G key/value groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.kernels import dispatch
from searchspace.primitives.masks import Blocks, gather, visible


def attend_with_sum(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention and its log-sum-exp: seen [N, b, n] -> [N, b, H, K], [N, b, H] (at least float32)."""
    if q.shape[1] == 1:  # a mask per query then equals a mask of the keys
        kernel = dispatch.kernel("attention", q.device, q)
        if kernel is not None:
            return kernel(q, k, v, causal=False, valid=seen[:, 0])
    G, b = k.shape[2], q.shape[1]
    R = q.shape[2] // G
    rows = q.unflatten(2, (G, R)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [N, G, R b, K]
    scores = rows @ k.transpose(1, 2).mT / math.sqrt(q.shape[-1])
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).unflatten(2, (R, b))  # [N, G, R, b, n]
    seeing = seen.any(-1, keepdim=True)[:, None, None]
    scores = scores.masked_fill(~seen[:, None, None] & seeing, -torch.inf)
    total = scores.logsumexp(-1, keepdim=True)
    weights = (scores - total).exp() * seeing
    y = weights.to(v.dtype).flatten(2, 3) @ v.transpose(1, 2)
    y = y.unflatten(2, (R, b)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    total = total.masked_fill(~seeing, -torch.inf).squeeze(-1)  # [N, G, R, b]
    return y, total.permute(0, 3, 1, 2).flatten(2)


def attend_blocks_with_sum(
    q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `masks.attend_blocks`, with the log-sum-exp [B, T, H] of every query."""
    B = q.shape[0]
    seen = visible(blocks, B, valid).flatten(0, 1)
    q, k, v = gather(q, blocks.queries), gather(k, blocks.keys), gather(v, blocks.keys)
    y, total = (
        t.unflatten(0, (B, -1)).flatten(1, 2)[:, blocks.slots] for t in attend_with_sum(q, k, v, seen)
    )
    return y, total


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merge two outputs [..., K] with log-sum-exps [...] into those of attention over the keys of both."""
    largest = torch.maximum(first[1], second[1]).detach()
    largest = torch.where(largest.isfinite(), largest, 0.0)
    weights = [(total - largest).exp() for _, total in (first, second)]
    whole = weights[0] + weights[1]
    seeing = whole > 0
    whole = torch.where(seeing, whole, 1.0)
    share_first, share_second = ((weight / whole).unsqueeze(-1).to(first[0].dtype) for weight in weights)
    total = torch.where(seeing, largest + whole.log(), -torch.inf)
    return share_first * first[0] + share_second * second[0], total
