"""RMSNorm: y = w * x / sqrt(mean(x^2) + eps) over the channels of each token.

Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.row_norms import add_rms_norm, rms_norm
from searchspace.registry import EPSILON, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class RMSNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        self.declare("weight", (Axis.of(D=context.d_model),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return rms_norm(x, self.weight, self.eps), None

    def of_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(the norm of x + residual, x + residual) [B, T, D]."""
        return add_rms_norm(x, residual, self.weight, self.eps)


def reference(module: RMSNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + module.eps) * module.weight


OPERATOR = Operator(
    name="rmsnorm",
    slot="norm",
    paper="Zhang and Sennrich 2019, arXiv:1910.07467",
    build=RMSNorm,
    ranges={"eps": EPSILON},
    reference=reference,
    fixed={"eps": EPS},
    catalogue=(3,),
    complexity="T D",
)
