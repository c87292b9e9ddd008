"""Patch embedding: an image cut into patches, each mapped linearly to a token, row by row.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929. Shapes: inputs [B, C, S, S], T = (S / patch)^2
tokens on a square grid, x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class PatchEmbedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.patch, self.grid = spec["patch_size"], _grid(spec)
        pixels = Axis.of(C=spec["channels"], Y=self.patch, X=self.patch)
        self.proj = context.linear("patch", Axis.of(D=context.d_model), pixels)

    def forward(self, inputs: Tensor, tokens: Tokens, start: int = 0) -> tuple[Tensor, Tokens]:
        """inputs [B, C, S, S] -> x [B, T, D], and tokens with positions [T] and the grid."""
        p = self.patch
        patches = inputs.unfold(2, p, p).unfold(3, p, p)  # [B, C, rows, columns, p, p]
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        positions = torch.arange(patches.shape[1], device=inputs.device)
        return self.proj(patches), tokens.replace(positions=positions, grid=self.grid)


def _grid(spec: OpSpec) -> tuple[int, int]:
    side = spec["image_size"] // spec["patch_size"]
    return side, side


def layout(spec: OpSpec, before: Layout) -> Layout:
    rows, columns = _grid(spec)
    return Layout(rows * columns, (rows, columns))


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["image_size"] % spec["patch_size"]:
        return f"patch_embedding: image_size {spec['image_size']} is no multiple of patch_size {spec['patch_size']}"
    return None


OPERATOR = Operator(
    name="patch_embedding",
    slot="stem",
    paper="Dosovitskiy et al. 2020, arXiv:2010.11929",
    build=PatchEmbedding,
    choices={"image_size": (8,), "patch_size": (1, 2), "channels": (1,)},
    layout=layout,
    why_invalid=why_invalid,
    causal=False,
)
