"""Subspace attention: in each group of channels, a softmax over the image's tokens scales each token.

    y_t = a_gt x_t        a_g = softmax_t(w_g . max3x3(relu(scale * x_t + shift)))        g the group of the channel

Saini et al., "ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks",
arXiv:2006.15102. The block's norm and residual replace its batch norm and shortcut; relative to that residual the
output starts small, since the weights of an image sum to 1. Each token is weighed against all: bidirectional only.
Shapes: x [B, T, D] in G groups of D / G channels, a [B, T, G].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, normal, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class SubspaceAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, channels = spec["subspaces"], (Axis.of(D=context.d_model),)
        self.declare("scale", channels, ones)
        self.declare("shift", channels, zeros)
        self.declare("pointwise", channels, normal(1 / math.sqrt(context.d_model / self.G)))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        weights = self.weights(x, tokens).unsqueeze(-1)  # [B, T, G, 1]
        return (x.unflatten(-1, (self.G, -1)) * weights).flatten(-2), None

    def weights(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> [B, T, G], summing to 1 over the valid tokens."""
        features = tokens.without_padding(torch.relu(torch.addcmul(self.shift, x, self.scale)))
        image = features.transpose(1, 2).unflatten(2, tokens.sides)
        largest = F.max_pool2d(image, 3, 1, 1).flatten(2).transpose(1, 2)
        scores = (largest * self.pointwise).unflatten(-1, (self.G, -1)).sum(-1)
        if tokens.valid is not None:
            scores = scores.masked_fill(~tokens.valid.unsqueeze(-1), torch.finfo(scores.dtype).min)
        wide = torch.promote_types(x.dtype, torch.float32)
        return tokens.without_padding(torch.softmax(scores, 1, dtype=wide).to(x.dtype))


def reference(module: SubspaceAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    B, T, D = x.shape
    columns = tokens.sides[1]
    features = torch.relu(module.scale * x + module.shift)
    y = torch.zeros_like(x)
    for b in range(B):
        real = [t for t in range(T) if tokens.is_real(b, t)]
        largest = []
        for t in real:
            near = [
                s for s in real if abs(s // columns - t // columns) <= 1 >= abs(s % columns - t % columns)
            ]
            largest.append(features[b, near].amax(0))
        scores = torch.stack(largest) * module.pointwise
        for group in torch.arange(D).view(module.G, -1):
            weights = scores[:, group].sum(-1).exp()
            y[b][torch.tensor(real)[:, None], group] = (
                x[b][real][:, group] * (weights / weights.sum())[:, None]
            )
    return y


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if context.d_model % spec["subspaces"]:
        return f"ulsam: {spec['subspaces']} subspaces do not divide width {context.d_model}"
    return None


OPERATOR = Operator(
    name="ulsam",
    slot="mixer",
    paper="Saini et al. 2020, arXiv:2006.15102",
    build=SubspaceAttention,
    reference=reference,
    choices={"subspaces": (1, 2, 4)},
    why_invalid=why_invalid,
    causal=False,
    needs_2d=True,
    catalogue=(62,),
    complexity="T D",
)
