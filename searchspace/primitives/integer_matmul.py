"""Matrix products with weights in 4 or 8 bits, and the storage layout of these weights.

int4     in groups of `group` neighbours of a row, w = scale (code - 8), codes 0..15; two codes per byte: byte i of a
         group holds code i in its low and code i + group / 2 in its high half. packed [N, K / 2], scale [N, K / group]
int8     per row, w = scale code, codes -127..127; codes [N, K], scale [N]
dynamic  int8 weights, and activations quantized per token in the same way; the sum over K is exact

Rounding is to the nearest, ties to even. Scales are float32. Shapes: x [..., K], w [N, K], y [..., N].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.kernels import dispatch


def unpack_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """Return the stored weights [N, K] in the dtype of `scale`."""
    groups = packed.unflatten(1, (scale.shape[1], -1))
    codes = torch.cat((groups & 15, groups >> 4), -1).to(scale.dtype) - 8
    return (codes * scale.unsqueeze(-1)).flatten(1)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (codes [..., K] int8, scale [...]) of weights or activations [..., K]."""
    x = x.float()
    scale = x.abs().amax(-1) / 127
    return (x / _divisor(scale)).round().to(torch.int8), scale


def _divisor(scale: Tensor) -> Tensor:
    """The scale as a divisor [..., 1], 1 where all values are 0."""
    return torch.where(scale > 0, scale, 1.0).unsqueeze(-1)


def int4_matmul(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """Return x [..., K] times the transpose of int4 weights, [..., N] in the dtype of x."""
    kernel = dispatch.kernel("int4_matmul", x.device, x)
    if kernel is not None:
        return kernel(x, packed, scale)
    return x @ unpack_int4(packed, scale.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype).mT


def int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return x [..., K] times the transpose of int8 weights, [..., N] in the dtype of x."""
    kernel = dispatch.kernel("int8_matmul", x.device, x)
    if kernel is not None:
        return kernel(x, codes, scale)
    return ((x @ codes.to(x.dtype).mT) * scale).to(x.dtype)


def dynamic_int8_matmul(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return quantized x [..., K] times the transpose of int8 weights, [..., N] in the dtype of x."""
    kernel = dispatch.kernel("dynamic_int8_matmul", x.device, x)
    if kernel is not None:
        return kernel(x, codes, scale)
    x_codes, x_scale = quantize_rows(x)
    total = x_codes.double() @ codes.double().mT  # integers below 2^53, so exact
    return (total.float() * x_scale.unsqueeze(-1) * scale).to(x.dtype)
