"""Simple RMSNorm: y = x / sqrt(mean(x^2) + eps) over the channels of each token, without weights.

Qin et al., "TransNormerLLM", arXiv:2307.14995. It equals LayerNorm on a centred residual stream whose weights are
folded into the next projection. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class SimpleRMSNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return F.rms_norm(x, x.shape[-1:], eps=EPS), None


def reference(module: SimpleRMSNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + EPS)


OPERATOR = Operator(
    name="srms",
    slot="norm",
    paper="TransNormerLLM, Qin et al. 2023, arXiv:2307.14995",
    build=SimpleRMSNorm,
    reference=reference,
    complexity="T D",
)
