"""Learned absolute positions: x_t + E[position of t].

Gehring et al., "Convolutional Sequence to Sequence Learning", arXiv:1705.03122.
Shapes: x [B, T, D], E [L, D] with L the longest sequence of the network.
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class LearnedPosition(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("weight", (Axis.of(L=context.layout.max_len), Axis.of(D=context.d_model)), normal(0.02))

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """x [B, T, D] -> [B, T, D] with positions added, and the tokens."""
        assert tokens.positions is not None
        return x + self.weight[tokens.positions], tokens


OPERATOR = Operator(
    name="learned",
    slot="position",
    paper="Gehring et al. 2017, arXiv:1705.03122",
    build=LearnedPosition,
    fixed_length=True,
)
