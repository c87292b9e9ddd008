"""RMS normalisation with LayerNorm's gain, shift and eps: equals LayerNorm on a stream whose channels have mean 0.

    y = w * x / sqrt(mean(x^2) + eps) + b

Jiang et al., "Pre-RMSNorm and Pre-CRMSNorm Transformers", arXiv:2305.14858; trained from scratch it is RMSNorm with a
shift. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class RMSAffine(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("weight", (Axis.of(D=context.d_model),), ones)
        self.declare("bias", (Axis.of(D=context.d_model),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return F.rms_norm(x, x.shape[-1:], self.weight, EPS) + self.bias, None


def reference(module: RMSAffine, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + EPS) * module.weight + module.bias


OPERATOR = Operator(
    name="rms_affine",
    slot="norm",
    paper="Jiang et al. 2023, arXiv:2305.14858",
    build=RMSAffine,
    reference=reference,
    catalogue=(3,),
    complexity="T D",
)
