"""Dynamic tanh: y = w * tanh(a * x) + b, a squashing function in place of a norm, without any reduction.

Zhu et al., "Transformers without Normalization", arXiv:2503.10622; a = 1 / 2 at the start. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


def half(tensor: Tensor) -> None:
    """Fill tensor [...] with 1 / 2."""
    tensor.fill_(0.5)


class DynamicTanh(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("slope", (Axis.of(one=1),), half)
        self.declare("weight", (Axis.of(D=context.d_model),), ones)
        self.declare("bias", (Axis.of(D=context.d_model),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return torch.addcmul(self.bias, torch.tanh(self.slope * x), self.weight), None


def reference(module: DynamicTanh, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return module.weight * (2 * torch.sigmoid(2 * module.slope * x) - 1) + module.bias


OPERATOR = Operator(
    name="dyt",
    slot="norm",
    paper="Zhu et al. 2025, arXiv:2503.10622",
    build=DynamicTanh,
    reference=reference,
    complexity="T D",
)
