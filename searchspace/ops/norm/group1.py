"""Group norm with one group: each sequence is normalised by the mean and variance of all its tokens and channels.

    y = w * (x - m) / sqrt(s + eps) + b        m, s over the valid tokens and the channels of one sequence

Wu and He, "Group Normalization", arXiv:1803.08494, as in MetaFormer (Yu et al., arXiv:2111.11418). It mixes tokens, so
it is bidirectional only. Shapes: x [B, T, D].
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


class Group1(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("weight", (Axis.of(D=context.d_model),), ones)
        self.declare("bias", (Axis.of(D=context.d_model),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        if tokens.valid is None:
            return F.layer_norm(x, x.shape[-2:], eps=EPS) * self.weight + self.bias, None
        real = tokens.real(x)
        count = (real.sum(1, keepdim=True) * x.shape[-1]).clamp_min(1.0)
        centred = x - (x * real).sum((1, 2), keepdim=True) / count
        variance = (centred * real).square().sum((1, 2), keepdim=True) / count
        return centred * torch.rsqrt(variance + EPS) * self.weight + self.bias, None


def reference(module: Group1, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    rows = []
    for b, sequence in enumerate(x):
        real = sequence if tokens.valid is None else sequence[tokens.valid[b]]
        mean = real.mean()
        rows.append((sequence - mean) / torch.sqrt(((real - mean) ** 2).mean() + EPS))
    return module.weight * torch.stack(rows) + module.bias


OPERATOR = Operator(
    name="group1",
    slot="norm",
    paper="Wu and He 2018, arXiv:1803.08494; MetaFormer, arXiv:2111.11418",
    build=Group1,
    reference=reference,
    causal=False,
    catalogue=(30,),
    complexity="T D",
)
