"""Moment probing: class logits from the mean of the tokens and from covariances of their channels, averaged.

    first     W_1 mean_t x_t
    second    z = N(x) W_z in H heads of c channels; M_h = mean_t (z_h - mean z_h) (z_{h+1} - mean z_{h+1})^T, divided
              by its norm; logits W_2 g(C_2 g(C_1 [M_1 .. M_{H-1}])), C two convolutions of stride 2 and g = gelu

Gao et al., "Tuning Pre-trained Model via Moment Probing", arXiv:2307.11342: N is a LayerNorm, the covariances of
adjacent heads are the input channels of the convolutions. The recalibration of the backbone (MP+) is left out.
Shapes: x [B, T, D] -> [B, W], M [B, H - 1, c, c].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule, normal, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class MomentProbing(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.H, self.c = spec["num_heads"], spec["head_dim"]
        d_model, classes = Axis.of(D=context.d_model), Axis.of(W=spec["num_classes"])
        pairs, square = Axis.of(pairs=self.H - 1), (Axis.of(rows=3), Axis.of(columns=3))
        self.side = (self.c + 3) // 4  # of the covariances after two convolutions of stride 2
        self.proj = context.linear("head", classes, d_model)
        self.declare("weight", (d_model,), ones)
        self.declare("bias", (d_model,), zeros)
        self.moment_proj = context.linear("head", Axis.of(H=self.H, C=self.c), d_model)
        std = 1 / math.sqrt(9 * (self.H - 1))
        for name in ("conv_1", "conv_2"):
            self.declare(name, (Axis.of(out=self.H - 1), pairs, *square), normal(std))
        moments = Axis.of(pairs=self.H - 1, rows=self.side, columns=self.side)
        self.second_proj = context.linear("head", classes, moments)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> logits [B, W]."""
        real = tokens.real(x)  # [B, T, 1]
        share = real / real.sum(1, keepdim=True).clamp_min(1.0)
        images = self.covariances(x, share)
        for kernel in (self.conv_1, self.conv_2):
            images = gelu_tanh(F.conv2d(images, kernel, stride=2, padding=1))
        first, second = self.proj((share * x).sum(1)), self.second_proj(images.flatten(1))
        return (first + second) / 2

    def covariances(self, x: Tensor, share: Tensor) -> Tensor:
        """Covariances of adjacent heads, each divided by its norm [B, H - 1, c, c], in at least float32."""
        z = self.moment_proj(F.layer_norm(x, x.shape[-1:], self.weight, self.bias, EPS))
        z = z.to(torch.promote_types(x.dtype, torch.float32))
        centred = (z - (share * z).sum(1, keepdim=True)).unflatten(-1, (self.H, self.c)).transpose(1, 2)
        weighted = share.unsqueeze(1).to(z.dtype) * centred  # [B, H, T, c]
        moments = weighted[:, :-1].mT @ centred[:, 1:]
        length = moments.square().sum((-2, -1), keepdim=True)
        return (moments * torch.rsqrt(length + EPS**2)).to(x.dtype)


def flops(module: MomentProbing, T: int, S: int) -> int:
    pairs, half = module.H - 1, (module.c + 1) // 2
    first = 2 * module.proj.weight.numel()
    second = 2 * T * module.moment_proj.weight.numel() + 2 * pairs * T * module.c**2
    convolutions = 18 * pairs**2 * (half**2 + module.side**2)
    return int(first + second + convolutions + 2 * module.second_proj.weight.numel())


OPERATOR = Operator(
    name="moment_probing",
    slot="head",
    paper="Gao et al. 2023, arXiv:2307.11342",
    build=MomentProbing,
    ranges={"num_heads": Range(2, 2**20, "covariances are of one head and another")},
    choices={"num_classes": (10,), "num_heads": (2, 4), "head_dim": (8, 16)},
    flops=flops,
    counts_projections=True,
    causal=False,
    catalogue=(93,),
    quantizable=("head",),
    complexity="T D H c",
)
