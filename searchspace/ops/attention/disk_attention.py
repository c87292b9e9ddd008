"""Disk attention: every token of a 2-D grid sees the tokens within a circle around it.

    o_p = sum_t softmax_t(q_p . k_t / sqrt(K)) v_t        over t with (row_t - row_p)^2 + (column_t - column_p)^2 < r^2

Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up", arXiv:2412.16112. The
inequality is strict: an inner token sees 193 tokens for r = 8. Computed on blocks of the grid with a halo, in which
the disk is a mask, so keys are copied once for each block and not for each token.
Shapes: B batch, T tokens of the grid, D model width, G groups, H = G R heads, K head dim, r = window / 2.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.masks import (
    attend_blocks,
    block_offsets,
    grid_blocks,
    grid_blocks_flops,
    grid_of,
    needs_grid,
)
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

SIDE = 4  # of a block of queries; changes the speed, not the result


class DiskAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.radius, self.layout = spec["window"] // 2, context.layout

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        assert tokens.grid is not None
        q, k, v = self.queries_keys_values(x)
        q, k = rotate(q, tokens), rotate(k, tokens)
        blocks = grid_blocks(tokens.grid, SIDE, self.radius - 1, x.device)
        rows, columns = block_offsets(SIDE, self.radius - 1, x.device)
        near = rows.square() + columns.square() < self.radius**2
        blocks = replace(blocks, seen=blocks.seen & near)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid)), None


def reference(module: DiskAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time."""
    assert tokens.grid is not None
    q, k, v = module.queries_keys_values(x)
    q, k, v = rotate(q, tokens), module.per_head(rotate(k, tokens)), module.per_head(v)
    columns = tokens.grid[1]
    y = torch.zeros_like(q)
    for b, p in product(range(len(x)), range(x.shape[1])):
        near = [
            t
            for t in range(x.shape[1])
            if (t // columns - p // columns) ** 2 + (t % columns - p % columns) ** 2 < module.radius**2
        ]
        near = [t for t in near if tokens.valid is None or tokens.valid[b, t]]
        if near:
            weights = (torch.einsum("hk,jhk->hj", q[b, p], k[b, near]) / module.K**0.5).softmax(-1)
            y[b, p] = torch.einsum("hj,jhk->hk", weights, v[b, near])
    return module.merge_heads(y)


def flops(module: DiskAttention, T: int, S: int) -> int:
    return grid_blocks_flops(grid_of(module.layout, T), SIDE, module.radius - 1, module.H, module.K)


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    return needs_grid(spec.op, context.layout)


OPERATOR = Operator(
    name="disk_attention",
    slot="mixer",
    paper="CLEAR, Liu et al. 2024, arXiv:2412.16112",
    build=DiskAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (4, 8, 16)},
    flops=flops,
    why_invalid=why_invalid,
    causal=False,
    needs_2d=True,
    rope=True,
    quantizable=("q", "k", "v", "o"),
    catalogue=(61,),
    complexity="T r^2 H K",
)
