"""Patch merging: the four tokens of each 2 x 2 cell side by side, normalised, and mapped to the new width.

    y_c = W LN([x_1; x_2; x_3; x_4])        over the tokens of cell c, row by row

Liu et al., "Swin Transformer", arXiv:2103.14030. Padding enters a cell as 0; a cell is real if any of its tokens is.
Shapes: x [B, rows * columns, D] -> [B, rows * columns / 4, D'].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

CELL = 2
EPS = 1e-5


class PatchMerge(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        cell = Axis.of(Y=CELL, X=CELL, D=context.d_model)
        self.declare("merge_weight", (cell,), ones)
        self.declare("merge_bias", (cell,), zeros)
        self.merge_proj = context.linear("merge", Axis.of(D=context.d_next), cell)

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> tuple[Tensor, Tokens, None]:
        assert tokens.grid is not None
        rows, columns = (side // CELL for side in tokens.grid)
        valid = tokens.valid
        if valid is not None:
            x = x * valid.unsqueeze(-1)
            valid = cells(valid.unsqueeze(-1), (rows, columns)).any(-1)
        merged = cells(x, (rows, columns))
        normed = F.layer_norm(merged, merged.shape[-1:], self.merge_weight, self.merge_bias, EPS)
        after = tokens.replace(grid=(rows, columns), valid=valid, positions=None, rotary=None, modality=None)
        return self.merge_proj(normed), after, None


def cells(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """x [B, T, C] -> [B, T / 4, 4 C]; grid is that of the cells."""
    rows, columns = grid
    return x.view(-1, rows, CELL, columns, CELL, x.shape[-1]).transpose(2, 3).flatten(3).flatten(1, 2)


def reference(module: PatchMerge, x: Tensor, tokens: Tokens) -> Tensor:
    """Cell by cell."""
    assert tokens.grid is not None
    rows, columns = tokens.grid
    outputs = []
    for row in range(0, rows, CELL):
        for column in range(0, columns, CELL):
            cell = [(row + i) * columns + column + j for i in range(CELL) for j in range(CELL)]
            merged = torch.cat([x[:, t] for t in cell], -1)
            centred = merged - merged.mean(-1, keepdim=True)
            normed = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
            outputs.append(module.merge_proj(normed * module.merge_weight + module.merge_bias))
    return torch.stack(outputs, 1)


def layout(spec: OpSpec, before: Layout) -> Layout:
    assert before.grid is not None
    return Layout(before.max_len // CELL**2, (before.grid[0] // CELL, before.grid[1] // CELL))


def flops(module: PatchMerge, T: int, S: int) -> int:
    return 2 * (T // CELL**2) * module.merge_proj.weight.numel()


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if context.causal:
        return "patch_merge: tokens of one cell see each other, so it can't be causal"
    if context.layout.grid is None:
        return "patch_merge needs a 2-D grid of tokens"
    if any(side % CELL for side in context.layout.grid):
        return f"patch_merge needs an even grid, got {context.layout.grid[0]} x {context.layout.grid[1]}"
    return None


OPERATOR = Operator(
    name="patch_merge",
    slot="transition",
    paper="Swin Transformer, Liu et al. 2021, arXiv:2103.14030",
    build=PatchMerge,
    reference=reference,
    layout=layout,
    flops=flops,
    counts_projections=True,
    why_invalid=why_invalid,
    causal=False,
    needs_2d=True,
    complexity="T D D'",
)
