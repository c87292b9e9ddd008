"""Patch merging: the four tokens of each 2 x 2 cell are concatenated, normalised and mapped to the new width.

    y_c = W LN([x_1; x_2; x_3; x_4])        over the tokens of cell c, row by row

Liu et al., "Swin Transformer", arXiv:2103.14030. Padding is 0 in a cell; a cell is real if any of its tokens is.
Shapes: x [B, rows * columns, D] -> [B, rows * columns / 4, D'].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import cells
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class PatchMerge(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        cell = Axis.of(Y=cells.CELL, X=cells.CELL, D=context.d_model)
        self.declare("merge_weight", (cell,), ones)
        self.declare("merge_bias", (cell,), zeros)
        self.merge_proj = context.linear("merge", Axis.of(D=context.d_next), cell)

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> tuple[Tensor, Tokens, None]:
        """x [B, T, D] -> [B, T / 4, D'], the facts of the cells, no state."""
        valid = tokens.valid
        if valid is not None:
            valid = cells.cells(valid.unsqueeze(-1), tokens.sides).any(2).squeeze(-1)
        merged = cells.cells(tokens.without_padding(x), tokens.sides).flatten(2)
        normed = F.layer_norm(merged, merged.shape[-1:], self.merge_weight, self.merge_bias, EPS)
        grid = cells.cells_of(tokens.sides)
        after = tokens.replace(grid=grid, valid=valid, positions=None, rotary=None, modality=None)
        return self.merge_proj(normed), after, None


def reference(module: PatchMerge, x: Tensor, tokens: Tokens) -> Tensor:
    """Cell by cell. x [B, T, D] -> [B, T / 4, D']."""
    outputs = []
    for cell in cells.cell_places(tokens.sides):
        merged = torch.cat([x[:, t] for t in cell], -1)
        centred = merged - merged.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
        outputs.append(module.merge_proj(normed * module.merge_weight + module.merge_bias))
    return torch.stack(outputs, 1)


def flops(module: PatchMerge, T: int, S: int) -> int:
    return 2 * (T // cells.CELL**2) * module.merge_proj.weight.numel()


OPERATOR = Operator(
    name="patch_merge",
    slot="transition",
    paper="Swin Transformer, Liu et al. 2021, arXiv:2103.14030",
    build=PatchMerge,
    reference=reference,
    layout=cells.layout,
    flops=flops,
    counts_projections=True,
    why_invalid=cells.why_invalid,
    causal=False,
    needs_2d=True,
    complexity="T D D'",
)
