"""RepBN: batch normalisation plus a scaled identity, which becomes one affine map per channel at inference.

    training     y = w * (x - m) / sqrt(s + eps) + b + eta * x        m, s over the batch's valid tokens
    evaluation   the same with the stored mean and variance, hence y = A * x + c with
                 A = w / sqrt(s + eps) + eta        c = b - w * m / sqrt(s + eps)

Guo et al., "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
Normalization", arXiv:2405.11582. The batch statistics are returned as the state of the forward pass and stored by
recalibration, never by the forward itself. In training mode they pool over later tokens of the sequence; in evaluation
mode every token stands alone, so a causal network stays causal. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class RepBN(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        channels = (Axis.of(D=context.d_model),)
        self.declare("weight", channels, ones)
        self.declare("bias", channels, zeros)
        self.declare("eta", (Axis.of(one=1),), ones)
        self.declare("mean", channels, zeros, role="statistic")
        self.declare("variance", channels, ones, role="statistic")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        mean, variance, update = self.mean, self.variance, None
        if self.training:
            mean, variance = token_moments(x, tokens.valid)
            update = {"mean": mean.detach(), "variance": variance.detach()}
        scale = self.weight * torch.rsqrt(variance + EPS)
        return x * (scale + self.eta) + (self.bias - mean * scale), update


def token_moments(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [D] over the valid tokens of x [B, T, D]."""
    rows = x.flatten(0, -2) if valid is None else x[valid]
    return rows.mean(0), rows.var(0, unbiased=False)


def fold(module: RepBN) -> tuple[OpSpec, dict[str, Tensor]]:
    scale = module.weight * torch.rsqrt(module.variance + EPS)
    return OpSpec("channel_affine"), {"scale": scale + module.eta, "shift": module.bias - module.mean * scale}


def reference(module: RepBN, x: Tensor, tokens: Tokens) -> Tensor:
    mean, variance = module.mean, module.variance
    if module.training:
        real = x[tokens.valid] if tokens.valid is not None else x.flatten(0, 1)
        mean = real.sum(0) / len(real)
        variance = ((real - mean) ** 2).sum(0) / len(real)
    return module.weight * (x - mean) / torch.sqrt(variance + EPS) + module.bias + module.eta * x


OPERATOR = Operator(
    name="repbn",
    slot="norm",
    paper="SLAB, Guo et al. 2024, arXiv:2405.11582",
    build=RepBN,
    reference=reference,
    fold=fold,
    complexity="T D",
)
