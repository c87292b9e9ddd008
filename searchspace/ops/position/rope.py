"""Rotary positions: each pair of adjacent channels of a query or key is turned by position * base^(-2 i / dim).

Su et al., "RoFormer", arXiv:2104.09864. `dim` is the widest head of the space: a narrower head keeps the first pairs
with the same frequencies, so that heads of every width share weights. The angles travel with the tokens; attention
whose scores are dot products turns its queries and keys by them, other mixers take none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.constants import kept
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class Rope(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.base, self.dim = spec["base"], spec["dim"]

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        assert tokens.positions is not None
        angles = tokens.positions.unsqueeze(-1) * frequencies(self.base, self.dim, x.device)
        return x, tokens.replace(rotary=(angles.cos(), angles.sin()))


@kept(16)
def frequencies(base: float, dim: int, device: torch.device) -> Tensor:
    """[dim / 2] in float64: angles of late positions need the digits."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)


OPERATOR = Operator(
    name="rope",
    slot="position",
    paper="Su et al. 2021, arXiv:2104.09864",
    build=Rope,
    ranges={"base": Range(2, 1e9, fractions=True), "dim": Range(2, 2**20, "channels turn in pairs", step=2)},
    choices={"base": (10000,), "dim": (32,)},
)
