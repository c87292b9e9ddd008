"""LayerNorm: y = w * (x - mean(x)) / sqrt(var(x) + eps) + b over the channels of each token.

Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.row_norms import add_layer_norm, layer_norm
from searchspace.registry import EPSILON, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class LayerNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        self.declare("weight", (Axis.of(D=context.d_model),), ones)
        self.declare("bias", (Axis.of(D=context.d_model),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return layer_norm(x, self.weight, self.bias, self.eps), None

    def of_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of x + residual, x + residual) [B, T, D]."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)


def reference(module: LayerNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + module.eps) * module.weight + module.bias
    )


OPERATOR = Operator(
    name="layernorm",
    slot="norm",
    paper="Ba et al. 2016, arXiv:1607.06450",
    build=LayerNorm,
    ranges={"eps": EPSILON},
    reference=reference,
    fixed={"eps": EPS},
    complexity="T D",
)
