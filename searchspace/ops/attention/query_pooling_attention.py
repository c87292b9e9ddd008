"""Attention with pooled queries: a token's attention is mixed with that of the mean of the last tokens' queries.

    y_i = a A(p_i) + (1 - a) A(q_i)        p_i = mean of q_j over i - L < j <= i
    A(q) = sum_j softmax_j(q . k_j / sqrt(K)) v_j        j <= i

MQSA-TED, multi-query self-attention for sequential recommendation with long (L > 1) and short (L = 1) query windows,
without its distillation loss, which is not part of the architecture. Queries are pooled before rotary positions; the
mean is over the real tokens in the window, of which there may be fewer than L. Causal only. Shapes: B batch, T queries,
S keys, H = G R heads, K head dim; q and p [B, T, H, K].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import (
    Places,
    Visibility,
    empty_cache,
    extend_rows,
    fused_attention,
)
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class QueryPoolingAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.rule, self.window, self.share = Visibility(context.causal), spec["query_window"], spec["share"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        T = x.shape[1]
        q, k, v = self.queries_keys_values(x)
        real = tokens.real(q[..., 0])
        rows = {"q": q * real.unsqueeze(-1), "real": real}
        if state is not None:
            rows = {name: torch.cat((state[name], row), 1) for name, row in rows.items()}
        pooled = self.pooled(rows["q"], rows["real"], T)
        q, pooled, k = (rotate(t, tokens) for t in (q, pooled, k))
        held, places = {"k": k, "v": v}, Places.following(0, T, x.device)
        valid = tokens.valid
        if state is not None:
            cache = {name: t for name, t in state.items() if name not in rows}
            held, places, cache = extend_rows(cache, held, self.rule, tokens.valid)
            valid = held.get("valid")
            state = cache | {
                name: t[:, max(0, t.shape[1] - self.window + 1) :].clone() for name, t in rows.items()
            }
        visible = self.rule.mask(places.queries, places.keys, valid)
        k, v = (self.per_head(held[name]).transpose(1, 2) for name in ("k", "v"))
        long, short = (fused_attention(t.transpose(1, 2), k, v, visible) for t in (pooled, q))
        return self.merge_heads(short.lerp(long, self.share).transpose(1, 2)), state

    def pooled(self, q: Tensor, real: Tensor, T: int) -> Tensor:
        """Mean queries over the window for the last T of q [B, S, H, K], which is 0 at padding; real [B, S, 1]."""
        total, count = (self.window_sum(t)[:, -T:] for t in (q.flatten(2), real))
        return (total / count.clamp_min(1)).unflatten(2, q.shape[2:])

    def window_sum(self, x: Tensor) -> Tensor:
        """x [B, S, C] -> sums over the last `query_window` tokens [B, S, C]."""
        padded = torch.nn.functional.pad(x.transpose(1, 2), (self.window - 1, 0))
        return padded.unfold(2, self.window, 1).sum(-1).transpose(1, 2)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        q = torch.empty(batch_size, 0, self.H, self.K, device=device, dtype=dtype)
        return empty_cache(batch_size, self.G, self.K, device, dtype) | {"q": q, "real": q[..., 0, :1]}


def reference(module: QueryPoolingAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Query by query. x [B, T, D] -> [B, T, D]."""
    B, T, _ = x.shape
    q, k, v = module.queries_keys_values(x)
    real = torch.ones(B, T, dtype=torch.bool) if tokens.valid is None else tokens.valid
    near = torch.ones(T, T, dtype=torch.bool).tril().triu(1 - module.window) & real[:, None]  # [B, T, S]
    means = torch.stack(
        [
            (n.to(x.dtype) @ rows.flatten(1)) / n.sum(1, keepdim=True).clamp_min(1)
            for n, rows in zip(near, q, strict=True)
        ]
    )
    k, v = module.per_head(rotate(k, tokens)), module.per_head(v)
    seen = (torch.ones(T, T, dtype=torch.bool).tril() & real[:, None]).unsqueeze(-1)
    mixed = torch.zeros_like(q)
    for share, asked in ((module.share, means.view_as(q)), (1 - module.share, q)):
        scores = (rotate(asked, tokens).unsqueeze(2) * k.unsqueeze(1)).sum(-1) / math.sqrt(module.K)
        weights = torch.where(seen, scores.exp(), 0.0)
        weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-300)
        mixed = mixed + share * (weights.unsqueeze(-1) * v.unsqueeze(1)).sum(2)
    return module.merge_heads(mixed)


def num_kept(module: QueryPoolingAttention, context_len: int) -> dict[str, int]:
    asked = min(context_len, module.window - 1)
    return {"k": context_len, "v": context_len, "q": asked, "real": asked}


OPERATOR = Operator(
    name="query_pooling_attention",
    slot="mixer",
    paper="MQSA-TED 2023 (multi-query self-attention with transition-aware embedding distillation)",
    build=QueryPoolingAttention,
    ranges={"share": Range(0, 1, "it mixes two attentions")},
    reference=reference,
    choices={**HEAD_CHOICES, "query_window": (5, 10, 20), "share": (0.25, 0.5, 1.0)},
    flops=lambda module, T, S: 8 * T * S * module.H * module.K,
    state_bytes=state_size.tokens(num_kept),
    bidirectional=False,
    rope=True,
    catalogue=(80,),
    complexity="2 T S H K",
    state="2 S G K + (L - 1) H K",
)
