"""RMSNorm and LayerNorm over the channels of each token, alone or after a residual addition.

    s = x + r      y = w s / sqrt(mean(s^2) + eps)      y = w (s - mean(s)) / sqrt(var(s) + eps) + b

Shapes: x and r [..., D], w and b [D].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return w x / sqrt(mean(x^2) + eps) for x [..., D], weight [D]; by a kernel where one is selected."""
    kernel = dispatch.kernel("rms_norm", x.device, x)
    return F.rms_norm(x, weight.shape, weight, eps) if kernel is None else kernel(x, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the LayerNorm of x [..., D], weight and bias [D]; by a kernel where one is selected."""
    kernel = dispatch.kernel("layer_norm", x.device, x)
    if kernel is None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return kernel(x, weight, bias, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (the RMSNorm of x + residual, x + residual), all [..., D]."""
    kernel = dispatch.kernel("add_rms_norm", x.device, x)
    if kernel is not None:
        return kernel(x, residual, weight, eps)
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, eps), total


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (the LayerNorm of x + residual, x + residual), all [..., D]."""
    kernel = dispatch.kernel("add_layer_norm", x.device, x)
    if kernel is not None:
        return kernel(x, residual, weight, bias, eps)
    total = x + residual
    return F.layer_norm(total, weight.shape, weight, bias, eps), total
