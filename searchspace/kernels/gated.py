"""The activation and gate of a gated FFN in one pass: y = act(u) * g, forward and backward.

Activations as in searchspace.primitives.activations; the backward pass recomputes act(u) instead of storing it.
Shapes: u, g and y [..., F], N values in all.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from searchspace.kernels.ahead_of_time import Case
from searchspace.kernels.products import DTYPES

ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu", "relu_squared", "logistic_sigmoid", "identity")
BLOCK = 1024


@triton.jit
def _activate(u, ACTIVATION: tl.constexpr):
    """(act(u), act'(u)) in float32."""
    if ACTIVATION == "silu":
        gate = tl.sigmoid(u)
        return u * gate, gate * (1 + u * (1 - gate))
    if ACTIVATION == "gelu":  # x / 2 (1 + tanh z) = x sigmoid(2 z)
        gate = tl.sigmoid(1.5957691216057308 * (u + 0.044715 * u * u * u))
        slope = 1.5957691216057308 * (1 + 0.134145 * u * u)
        return u * gate, gate + u * gate * (1 - gate) * slope
    if ACTIVATION == "gelu_erf":  # x Phi(x)
        share = 0.5 * (1 + tl.math.erf(0.7071067811865476 * u))
        return u * share, share + 0.3989422804014327 * u * tl.exp(-0.5 * u * u)
    if ACTIVATION == "relu":
        return tl.maximum(u, 0.0), tl.where(u > 0, 1.0, 0.0)
    if ACTIVATION == "relu_squared":
        part = tl.maximum(u, 0.0)
        return part * part, 2 * part
    if ACTIVATION == "logistic_sigmoid":
        gate = tl.sigmoid(u)
        return gate, gate * (1 - gate)
    return u, tl.full(u.shape, 1.0, tl.float32)


@triton.jit
def gated_forward(p_u, p_g, p_y, N, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_u = tl.load(p_u + o, mask=o < N, other=0.0).to(tl.float32)
    b_g = tl.load(p_g + o, mask=o < N, other=0.0).to(tl.float32)
    b_act, _ = _activate(b_u, ACTIVATION)
    tl.store(p_y + o, b_act * b_g, mask=o < N)


@triton.jit
def gated_backward(p_u, p_g, p_dy, p_du, p_dg, N, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_u = tl.load(p_u + o, mask=o < N, other=0.0).to(tl.float32)
    b_g = tl.load(p_g + o, mask=o < N, other=0.0).to(tl.float32)
    b_dy = tl.load(p_dy + o, mask=o < N, other=0.0).to(tl.float32)
    b_act, b_slope = _activate(b_u, ACTIVATION)
    tl.store(p_du + o, b_dy * b_g * b_slope, mask=o < N)
    tl.store(p_dg + o, b_dy * b_act, mask=o < N)


def gated_activation(u: Tensor, g: Tensor, activation: str) -> Tensor:
    """act(u) * g for u, g [..., F] of one dtype. Raises ValueError for other operands or activations."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"gated_activation kernel: takes {', '.join(ACTIVATIONS)}, got {activation}; use torch for it"
        )
    if u.dtype not in DTYPES or u.dtype != g.dtype or u.shape != g.shape:
        raise ValueError(
            "gated_activation kernel: takes float32, float16 or bfloat16 of one shape, "
            f"got {u.dtype} {tuple(u.shape)} and {g.dtype} {tuple(g.shape)}"
        )
    y: Tensor = _Gated.apply(u, g, activation)
    return y


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, g: Tensor, activation: str) -> Tensor:
        u, g = u.contiguous(), g.contiguous()
        y = torch.empty_like(u)
        gated_forward[triton.cdiv(u.numel(), BLOCK),](u, g, y, u.numel(), ACTIVATION=activation, BLOCK=BLOCK)
        ctx.save_for_backward(u, g)
        ctx.activation = activation
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        u, g = ctx.saved_tensors
        du, dg, N = torch.empty_like(u), torch.empty_like(g), u.numel()
        gated_backward[triton.cdiv(N, BLOCK),](
            u, g, dy.contiguous(), du, dg, N, ACTIVATION=ctx.activation, BLOCK=BLOCK
        )
        return du, dg, None


CASES = tuple(
    Case(
        kernel,
        dict.fromkeys((name for name in kernel.arg_names if name.startswith("p_")), "*bf16") | {"N": "i32"},
        {"ACTIVATION": activation, "BLOCK": BLOCK},
        label=activation,
    )
    for activation in ACTIVATIONS
    for kernel in (gated_forward, gated_backward)
)
