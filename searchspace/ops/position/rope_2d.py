"""Rotary positions on a grid: every second pair of channels of a head is rotated by the row, the others by the column.

    pair 2 t: row * base^(-4 t / dim)        pair 2 t + 1: column * base^(-4 t / dim)

The axial form of Heo et al., "Rotary Position Embedding for Vision Transformer", arXiv:2403.13298, whose base is 100.
There one half of the channels belongs to each axis; here the pairs alternate, so that a narrower head, which keeps the
first ones, has both axes. `dim` is the width of the space's widest head. The angles travel with the tokens, as in rope.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.rotary import frequencies
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class Rope2d(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.base, self.dim = spec["base"], spec["dim"]

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """Return x [B, T, D], and tokens with rotary angles [.., T, dim / 2]."""
        assert tokens.positions is not None
        _, columns = tokens.sides
        places = torch.stack((tokens.positions // columns, tokens.positions % columns), -1)  # [.., T, 2]
        turns = frequencies(self.base, self.dim // 2, x.device).unsqueeze(-1)  # [dim / 4, 1]
        angles = (places.unsqueeze(-2) * turns).flatten(-2)  # [.., T, dim / 2], row and column alternating
        return x, tokens.replace(rotary=(angles.cos(), angles.sin()))


OPERATOR = Operator(
    name="rope_2d",
    slot="position",
    paper="RoPE-ViT, Heo et al. 2024, arXiv:2403.13298",
    build=Rope2d,
    ranges={
        "base": Range(2, 1e9, fractions=True),
        "dim": Range(4, 2**20, "pairs of channels for each of two axes", step=4),
    },
    choices={"base": (100,), "dim": (32,)},
    causal=False,
    needs_2d=True,
)
