"""Compressed RMSNorm: LayerNorm of D + 1 channels with mean 0, without the last one, minus the sum of the others.

    y = w * x / sqrt((sum(x^2) + sum(x)^2) / (D + 1) + eps)

Jiang et al., "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers",
arXiv:2305.14858. A network converted from Pre-LN loses one channel of its stream; one trained from scratch, as here,
keeps its width and represents a stream of D + 1. A narrower slice normalises over its own width. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class CompressedRMSNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("weight", (Axis.of(D=context.d_model),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = wide.square().sum(-1, keepdim=True) + wide.sum(-1, keepdim=True).square()
        scale = torch.rsqrt(total / (x.shape[-1] + 1) + EPS).to(x.dtype)
        return x * scale * self.weight, None


def reference(module: CompressedRMSNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    whole = torch.cat((x, -x.sum(-1, keepdim=True)), -1)
    return (whole / torch.sqrt((whole**2).mean(-1, keepdim=True) + EPS))[..., :-1] * module.weight


OPERATOR = Operator(
    name="crms",
    slot="norm",
    paper="Jiang et al. 2023, arXiv:2305.14858",
    build=CompressedRMSNorm,
    reference=reference,
    catalogue=(3,),
    complexity="T D",
)
