"""Mask-unit attention: softmax attention inside non-overlapping square units of a 2-D grid.

    o_p = sum_s softmax_s(q_p . k_s / sqrt(K)) v_s        over the tokens s of p's unit of u x u

The local attention in the early stages of a hierarchical vision transformer; between stages queries are pooled
(`q_pooling`). Ryali et al., "Hiera", arXiv:2306.00989; a topology of TurboViT, Wong et al., arXiv:2308.11421. A unit
that extends beyond the edge of the grid has fewer tokens. Shapes: B batch, T tokens of the grid, D model width, G
groups, H = G R heads, K head dim, u window.
"""

from __future__ import annotations

from itertools import product

from torch import Tensor

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.masks import (
    attend_blocks,
    grid_blocks,
    grid_blocks_flops,
    grid_of,
    sparse_reference,
)
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class MaskUnitAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.layout = spec["window"], context.layout

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.rotated(x, tokens)
        blocks = grid_blocks(tokens.sides, self.window, 0, x.device)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid)), None


def reference(module: MaskUnitAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    rows, columns = tokens.sides
    units: dict[tuple[int, int], list[int]] = {}
    for row, column in product(range(rows), range(columns)):
        units.setdefault((row // module.window, column // module.window), []).append(row * columns + column)
    unit_of = {t: unit for unit in units.values() for t in unit}
    return module.merge_heads(sparse_reference(module, x, tokens, lambda b, h, i: unit_of[i]))


def flops(module: MaskUnitAttention, T: int, S: int) -> int:
    return grid_blocks_flops(grid_of(module.layout, T), module.window, 0, module.H, module.K)


OPERATOR = Operator(
    name="mask_unit_attention",
    slot="mixer",
    paper="Hiera, Ryali et al. 2023, arXiv:2306.00989; TurboViT, Wong et al. 2023, arXiv:2308.11421",
    build=MaskUnitAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (4, 8)},
    flops=flops,
    causal=False,
    needs_2d=True,
    rope=True,
    catalogue=(22,),
    complexity="T u^2 H K",
)
