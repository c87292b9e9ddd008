"""High and low frequency heads: some heads attend within small windows, the others to an averaged image.

    high heads   softmax attention inside non-overlapping windows of s x s tokens
    low heads    queries of every token, keys and values of the means over these windows
    y = W_high [high heads] + W_low [low heads]

Pan et al., "Fast Vision Transformers with HiLo Attention" (LITv2), arXiv:2205.13213. The two kinds of heads have
separate projections; their share alpha is low_heads / (low_heads + high_heads). With s = 1 and no high heads this is
full attention. Means exclude padding. Shapes: B batch, T tokens of the grid, D model width, H heads of a kind, K head
dim, s pool.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.latent import pad_grid
from searchspace.primitives.masks import (
    attend,
    attend_blocks,
    attend_flops,
    grid_blocks,
    grid_blocks_flops,
    grid_of,
    num_blocks,
)
from searchspace.registry import COUNT, Operator, operator
from searchspace.spec.arch import OpSpec


class HiLoAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.num_heads = {"low": spec["low_heads"], "high": spec["high_heads"]}
        self.K, self.pool, self.layout = spec["head_dim"], spec["pool"], context.layout
        d_model = Axis.of(D=context.d_model)
        for kind, count in self.num_heads.items():
            heads = Axis.of(H=count, K=self.K)
            for role in ("q", "k", "v") if count else ():
                self.add_module(f"{kind}_{role}_proj", context.linear(role, heads, d_model))
            if count:
                self.add_module(f"{kind}_o_proj", context.linear("o", d_model, heads))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        means, exists = self.means(x, tokens)
        seen = exists.unsqueeze(1).expand(-1, x.shape[1], -1)
        low = attend(
            self.heads("low", "q", x), self.heads("low", "k", means), self.heads("low", "v", means), seen
        )
        y: Tensor = self.low_o_proj(low.flatten(2))
        if self.num_heads["high"]:
            q, k, v = (self.heads("high", role, x) for role in "qkv")
            blocks = grid_blocks(tokens.sides, self.pool, 0, x.device)
            y = y + self.high_o_proj(attend_blocks(q, k, v, blocks, tokens.valid).flatten(2))
        return y, None

    def heads(self, kind: str, role: str, x: Tensor) -> Tensor:
        """x [B, n, D] -> [B, n, H, K]."""
        projection = self.get_submodule(f"{kind}_{role}_proj")
        y: Tensor = projection(x)
        return y.unflatten(2, (-1, self.K))

    def means(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Means over the real tokens of every window [B, n, D], and which windows have real tokens [B, n]."""
        real = tokens.real(x)
        total, count = (
            (F.avg_pool2d(pad_grid(t, tokens.sides, self.pool), self.pool) * self.pool**2).flatten(2).mT
            for t in (x * real, real)
        )
        count = count.round()
        return total / count.clamp_min(1.0), (count > 0).squeeze(-1)


def reference(module: HiLoAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One window at a time. x [B, T, D] -> [B, T, D]."""
    rows, columns = tokens.sides
    windows: dict[tuple[int, int], list[int]] = {}
    for row, column in product(range(rows), range(columns)):
        windows.setdefault((row // module.pool, column // module.pool), []).append(row * columns + column)
    y = torch.zeros_like(x)
    for b in range(len(x)):
        real = [[t for t in w if tokens.is_real(b, t)] for w in windows.values()]
        real = [w for w in real if w]
        means = torch.stack([x[b, w].mean(0) for w in real])
        y[b] = _attention(module, "low", x[b], means)
        for window in real if module.num_heads["high"] else ():
            y[b, window] = y[b, window] + _attention(module, "high", x[b, window], x[b, window])
    return y


def _attention(module: HiLoAttention, kind: str, queries: Tensor, keys: Tensor) -> Tensor:
    q, k, v = (
        module.heads(kind, role, t.unsqueeze(0)).squeeze(0)
        for role, t in (("q", queries), ("k", keys), ("v", keys))
    )
    weights = (torch.einsum("ihk,jhk->hij", q, k) / module.K**0.5).softmax(-1)
    o: Tensor = module.get_submodule(f"{kind}_o_proj")(torch.einsum("hij,jhk->ihk", weights, v).flatten(1))
    return o


def flops(module: HiLoAttention, T: int, S: int) -> int:
    grid = grid_of(module.layout, T)
    n = num_blocks(grid, module.pool)
    parts: dict[str, Any] = dict(module.named_children())
    lengths = dict.fromkeys(parts, T) | {"low_k_proj": n, "low_v_proj": n}
    projected = sum(
        operator("projection", part.kind).flops(part, lengths[name], lengths[name])
        for name, part in parts.items()
    )
    low = attend_flops(1, T, n, module.num_heads["low"], module.K)
    return projected + low + grid_blocks_flops(grid, module.pool, 0, module.num_heads["high"], module.K)


OPERATOR = Operator(
    name="hilo_attention",
    slot="mixer",
    paper="LITv2 (HiLo), Pan et al. 2022, arXiv:2205.13213",
    build=HiLoAttention,
    ranges={"high_heads": COUNT},
    reference=reference,
    choices={"low_heads": (1, 2, 4), "high_heads": (0, 1, 2), "head_dim": (16, 32), "pool": (1, 2, 4)},
    flops=flops,
    causal=False,
    needs_2d=True,
    counts_projections=True,
    quantizable=("q", "k", "v", "o"),
    catalogue=(96,),
    complexity="T (T / s^2 H_low + s^2 H_high) K",
)
