"""Heads in key/value groups: how [B, T, D] becomes queries, keys and values, and rotary positions on them.

G key/value groups, R query heads per group, H = G R heads, K head dim. Multi-head attention is R = 1, multi-query
attention G = 1, grouped-query attention anything between; sparse-query attention has fewer heads than D / K. A smaller
network keeps a prefix of the groups and a prefix of the heads within each group, so a query head never changes the
keys that it was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.spec.arch import OpSpec

HEAD_CHOICES = {"num_groups": (1, 2, 4), "heads_per_group": (1, 2), "head_dim": (16, 32)}


class GroupedHeads(AxisModule):
    """Projections q, k, v and o of a mixer with heads in groups; names are shared between the mixers of a slot."""

    quantizable = ("q", "k", "v", "o")

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.R, self.K = spec["num_groups"], spec["heads_per_group"], spec["head_dim"]
        self.H = self.G * self.R
        self.causal = context.causal
        d_model = Axis.of(D=context.d_model)
        group = Axis.of(G=self.G, K=self.K)
        heads = Axis.of(G=self.G, R=self.R, K=self.K)
        self.q_proj = context.linear("q", heads, d_model)
        self.k_proj = context.linear("k", group, d_model)
        self.v_proj = context.linear("v", group, d_model)
        self.o_proj = context.linear("o", d_model, heads)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]."""
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.H, self.K)
        k = self.k_proj(x).view(B, T, self.G, self.K)
        v = self.v_proj(x).view(B, T, self.G, self.K)
        return q, k, v

    def rotated(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """The same with rotary positions on queries and keys."""
        q, k, v = self.queries_keys_values(x)
        return rotate(q, tokens), rotate(k, tokens), v

    def rotated_per_head(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """The same with keys and values for each head, [B, T, H, K] all three."""
        q, k, v = self.rotated(x, tokens)
        return q, self.per_head(k), self.per_head(v)

    def per_head(self, grouped: Tensor) -> Tensor:
        """[B, T, G, ...] -> [B, T, H, ...]: every head of a group sees the group's."""
        return grouped.repeat_interleave(self.R, dim=2) if self.R > 1 else grouped

    def merge_heads(self, y: Tensor) -> Tensor:
        """y [B, T, H, K] -> [B, T, D]."""
        return self.o_proj(y.flatten(2))


class CachingHeads(GroupedHeads):
    """Grouped heads of a mixer that decodes from keys and values [B, S, G, K]."""

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        return {"k": nothing, "v": nothing}


def rotate(x: Tensor, tokens: Tokens) -> Tensor:
    """Rotary positions on adjacent channel pairs of x [B, T, H, K]; x itself where there are none.

    The frequencies belong to the widest head of the space, so a narrower head keeps the first of them.
    """
    if tokens.rotary is None:
        return x
    cos, sin = (
        t[..., : x.shape[-1] // 2].to(x.dtype).unsqueeze(-2) for t in tokens.rotary
    )  # [.., T, 1, K/2]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
