"""Windowed softmax attention in blocks, whose cost per token grows with the window, not with the sequence.

Each block of QUERIES queries is multiplied with the keys that any of them may see: the block's own, the w - 1 before it
(w // 2 on either side in bidirectional attention), and the sinks:

    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over the keys j of the block that `Visibility` lets i see

No T x T map is created; the outputs equal those of attention under the mask of `Visibility` on all pairs.
Shapes: B batch, T tokens, H heads, K head dim, n blocks, L keys beside a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.scores import Places, Visibility, fused_attention

QUERIES = 64  # per block; 32 and 128 gave slower training steps for windows of 16, 64 and 256 on a CPU
WORTH = 2  # factor by which blocks must reduce query-key pairs, since copies and short products cost time too


class Blocks(NamedTuple):
    """`num` blocks of QUERIES tokens, each with `before` and `after` keys around it and the first `sinks` keys."""

    num: int
    before: int
    after: int
    sinks: int

    @property
    def keys(self) -> int:
        return self.before + QUERIES + self.after

    @property
    def num_pairs(self) -> int:
        return self.num * QUERIES * (self.keys + self.sinks)


def blocks(rule: Visibility, T: int) -> Blocks | None:
    """The blocks of T tokens under a rule; None if they would be no faster, or if T is symbolic in a trace."""
    if not rule.window or not isinstance(T, int):
        return None
    before, after = (rule.window - 1, 0) if rule.causal else (rule.window // 2, rule.window // 2)
    found = Blocks(-(-T // QUERIES), before, after, rule.sinks)
    return found if found.num_pairs * WORTH <= T * T else None


def num_pairs(rule: Visibility, T: int, S: int) -> int:
    """The number of query-key pairs that `windowed_attention` computes for the last T of S tokens."""
    cut = blocks(rule, T) if T == S else None
    return T * (rule.num_kept(S - T) + T) if cut is None else cut.num_pairs


def windowed_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: Visibility, places: Places, valid: Tensor | None = None
) -> Tensor:
    """Attention under a rule, in blocks if that is faster, else with a mask of all pairs.

    q [B, T, H, K], k and v [B, S, H, K] at `places`, valid [B, S] -> [B, T, H, K].
    """
    T, S = q.shape[1], k.shape[1]
    cut = blocks(rule, T) if T == S and places.is_last else None
    if cut is not None:
        return local_attention(q, k, v, rule, cut, valid)
    visible = rule.mask(places.queries, places.keys, valid)
    return fused_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), visible).transpose(1, 2)


def local_attention(
    q: Tensor, k: Tensor, v: Tensor, rule: Visibility, cut: Blocks, valid: Tensor | None = None
) -> Tensor:
    """Attention in blocks: q, k, v [B, T, H, K], valid [B, T] -> [B, T, H, K]; 0 where a query sees no key."""
    B, T, H, K = q.shape
    missing = cut.num * QUERIES - T
    places = torch.arange(cut.num * QUERIES, device=q.device).view(cut.num, QUERIES, 1)
    keys = places[:, :1, 0] - cut.before + torch.arange(cut.keys, device=q.device)  # [n, L]
    keys = keys.unsqueeze(1)
    seen = rule.sees(places, keys) & (keys >= cut.sinks) & (keys < T)  # [n, c, L]
    if cut.sinks:
        first = torch.arange(cut.sinks, device=q.device)
        seen = torch.cat((rule.sees(places, first), seen), -1)
    visible = seen.unsqueeze(0)
    if valid is not None:
        visible = visible & _beside(valid, cut, missing).unsqueeze(2)
    visible = visible.expand(B, *seen.shape).flatten(0, 1).unsqueeze(1)  # [B n, 1, c, sinks + L]
    k, v = (_beside(x, cut, missing).flatten(0, 1).transpose(1, 2) for x in (k, v))  # [B n, H, sinks + L, K]
    q = F.pad(q, (0, 0, 0, 0, 0, missing)).view(B * cut.num, QUERIES, H, K).transpose(1, 2)
    return fused_attention(q, k, v, visible).transpose(1, 2).reshape(B, -1, H, K)[:, :T]


def _beside(x: Tensor, cut: Blocks, missing: int) -> Tensor:
    """x [B, T, ...] -> the keys of each block [B, n, sinks + L, ...], 0 where there is no token."""
    axes = (0, 0) * (x.dim() - 2)
    padded = F.pad(x, (*axes, cut.before, missing + cut.after))
    rows = padded.unfold(1, cut.keys, QUERIES).movedim(-1, 2)
    if not cut.sinks:
        return rows
    first = x[:, None, : cut.sinks].expand(-1, cut.num, *x[:, : cut.sinks].shape[1:])
    return torch.cat((first, rows), 2)
