"""Neighborhood attention: every token has its own window, which is shifted inwards at a border instead of cut.

Along an axis, tokens with equal remainder modulo the dilation d form a line of m tokens; with a = floor(place / d),
    bidirectional   start = clamp(a - floor(k / 2), 0, m - k), the window is start .. start + k - 1: min(k, m) keys
    causal          the window is a - k + 1 .. a, cut at the start of the sequence
and a token of a grid sees the product of its two windows.

Hassani et al., "Neighborhood Attention Transformer", arXiv:2204.07143; dilation arXiv:2209.15001; causal axes
"Faster Neighborhood Attention", arXiv:2403.04690. Without a grid, bidirectional tokens form one axis. Padding outside
the real tokens' rectangle does not count as part of the axis. A decoder keeps the last (k - 1) d tokens.
Shapes: B batch, T tokens, D model width, G groups, H = G R heads, K head dim, k window, n keys of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.caches import latest
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import (
    Blocks,
    attend_blocks,
    attend_flops,
    extend,
    extents,
    sparse_reference,
)
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class NeighborhoodAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.dilation = spec["window"], spec["dilation"]
        self.num_axes = 1 if self.causal or context.layout.grid is None else 2

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        T, before = x.shape[1], 0
        if state is not None:
            before, state = state["k"].shape[1], extend(state, k=k, v=v)
            k, v = state["k"], state["v"]
            first = max(0, k.shape[1] - (self.window - 1) * self.dilation)
            state = {name: latest(kept, kept.shape[1] - first) for name, kept in state.items()}
        if self.causal:
            places = self.earlier(before, T, x.device)
            seen = places >= 0
        else:
            grid = tokens.grid if self.num_axes == 2 else (1, T)
            assert grid is not None
            places, seen = self.around(tokens.valid, grid, x.device)
        each = torch.arange(T, device=x.device)
        blocks = Blocks(each.unsqueeze(1), places.clamp(0, k.shape[1] - 1), seen.unsqueeze(-2), each)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid)), state

    def earlier(self, before: int, T: int, device: torch.device) -> Tensor:
        """Places [T, k] of the window that ends at each query, negative before the start."""
        asking = torch.arange(before, before + T, device=device)
        return asking.unsqueeze(1) - self.dilation * torch.arange(self.window, device=device)

    def around(
        self, valid: Tensor | None, grid: tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Places [B, T, n] of every query's window in the grid, and which of them exist; B = 1 without padding."""
        rows, columns = extents(valid, grid, device)
        column, has_column = self.window_on(grid[1], *columns)
        if self.num_axes == 1:
            return column, has_column
        row, has_row = self.window_on(grid[0], *rows)
        places = row[:, :, None, :, None] * grid[1] + column[:, None, :, None, :]
        exist = has_row[:, :, None, :, None] & has_column[:, None, :, None, :]
        return places.flatten(3).flatten(1, 2), exist.flatten(3).flatten(1, 2)

    def window_on(self, length: int, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Windows on an axis with real places first .. end - 1, [B, 1]: places [B, length, k] and existence."""
        place = torch.arange(length, device=first.device) - first
        remainder, a = place % self.dilation, place // self.dilation
        m = (end - first - remainder + self.dilation - 1) // self.dilation
        start = torch.minimum(a - self.window // 2, m - self.window).clamp_min(0)
        chosen = start.unsqueeze(-1) + torch.arange(self.window, device=first.device)
        places = (first + remainder).unsqueeze(-1) + self.dilation * chosen
        return places.clamp(0, length - 1), chosen < m.unsqueeze(-1)


def reference(module: NeighborhoodAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens, with windows found by sorting a line's tokens by distance.

    x [B, T, D] -> [B, T, D].
    """
    T = x.shape[1]
    columns = tokens.grid[1] if module.num_axes == 2 and tokens.grid else T

    def sees(b: int, h: int, i: int) -> list[int]:
        if module.causal:
            return [t for t in range(i, i - module.window * module.dilation, -module.dilation) if t >= 0]
        real = [t for t in range(T) if tokens.is_real(b, t)]
        row, column = divmod(i, columns)
        rows = _nearest(row, sorted({t // columns for t in real}), module)
        line = _nearest(column, sorted({t % columns for t in real}), module)
        return [t for t in real if t // columns in rows and t % columns in line]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def _nearest(place: int, real: list[int], module: NeighborhoodAttention) -> list[int]:
    """The `window` places nearest to `place` on its line, which spans first to last real place."""
    line = [t for t in range(real[0], real[-1] + 1) if (t - place) % module.dilation == 0]
    return sorted(line, key=lambda t: abs(t - place))[: module.window]


def flops(module: NeighborhoodAttention, T: int, S: int) -> int:
    return attend_flops(T, 1, module.window**module.num_axes, module.H, module.K)


OPERATOR = Operator(
    name="neighborhood_attention",
    slot="mixer",
    paper="Hassani et al. 2022, arXiv:2204.07143; Faster Neighborhood Attention 2024, arXiv:2403.04690",
    build=NeighborhoodAttention,
    ranges={"window": ODD},
    reference=reference,
    choices={**HEAD_CHOICES, "window": (3, 5, 7), "dilation": (1, 2)},
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: min(n, (module.window - 1) * module.dilation)),
    rope=True,
    catalogue=(56,),
    complexity="T k^axes H K",
    state="at most 2 (k - 1) d G K",
)
