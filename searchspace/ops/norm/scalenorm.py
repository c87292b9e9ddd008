"""ScaleNorm: y = g * x / |x|, one learned length for all tokens, sqrt(D) at the start.

Nguyen and Salazar, "Transformers without Tears", arXiv:1910.05895. g is stored as its ratio to sqrt(D), so that a
network of another width starts with, and is sliced to, the length of its own width. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class ScaleNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("length_ratio", (Axis.of(one=1),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return self.length_ratio * F.rms_norm(x, x.shape[-1:], eps=EPS), None


def reference(module: ScaleNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    width = x.shape[-1]
    length = torch.sqrt((x * x).sum(-1, keepdim=True) + width * EPS)
    return module.length_ratio * width**0.5 * x / length


OPERATOR = Operator(
    name="scalenorm",
    slot="norm",
    paper="Nguyen and Salazar 2019, arXiv:1910.05895",
    build=ScaleNorm,
    reference=reference,
    complexity="T D",
)
