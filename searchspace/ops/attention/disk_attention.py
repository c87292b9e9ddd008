"""Disk attention: every token of a 2-D grid sees the tokens within a circle around it.

    o_p = sum_t softmax_t(q_p . k_t / sqrt(K)) v_t        over t with (row_t - row_p)^2 + (column_t - column_p)^2 < r^2

Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up", arXiv:2412.16112. The
inequality is strict: an inner token sees 193 tokens for r = 8. Computed on blocks of the grid with a halo, with the
disk as a mask, so keys are copied once per block instead of once per token. Shapes: B batch, T tokens of the grid, D
model width, G groups, H = G R heads, K head dim, r = window / 2.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from torch import Tensor

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.masks import (
    attend_blocks,
    block_offsets,
    grid_blocks,
    grid_blocks_flops,
    grid_of,
    sparse_reference,
)
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

SIDE = 4  # of a block of queries; affects only the speed


class DiskAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.radius, self.layout = spec["window"] // 2, context.layout

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.rotated(x, tokens)
        blocks = grid_blocks(tokens.sides, SIDE, self.radius - 1, x.device)
        rows, columns = block_offsets(SIDE, self.radius - 1, x.device)
        near = rows.square() + columns.square() < self.radius**2
        blocks = replace(blocks, seen=blocks.seen & near)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid)), None


def reference(module: DiskAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    places = list(product(*map(range, tokens.sides)))

    def sees(b: int, h: int, i: int) -> list[int]:
        (row, column), r = places[i], module.radius
        return [j for j, (y, x) in enumerate(places) if (y - row) ** 2 + (x - column) ** 2 < r**2]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def flops(module: DiskAttention, T: int, S: int) -> int:
    return grid_blocks_flops(grid_of(module.layout, T), SIDE, module.radius - 1, module.H, module.K)


OPERATOR = Operator(
    name="disk_attention",
    slot="mixer",
    paper="CLEAR, Liu et al. 2024, arXiv:2412.16112",
    build=DiskAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (4, 8, 16)},
    flops=flops,
    causal=False,
    needs_2d=True,
    rope=True,
    catalogue=(61,),
    complexity="T r^2 H K",
)
