"""Statistics of score rows over the keys that a query sees: number of keys, standardised scores, softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.kernels import dispatch


def num_visible(scores: Tensor, visible: Tensor) -> Tensor:
    """Return the number of keys that each query sees [.., T, 1], at least 1."""
    return visible.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)


def standardized(
    scores: Tensor, visible: Tensor, inside: float = 0.0, outside: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return z = (s - mean) / (sqrt(var + inside) + outside) at visible keys, else 0, and the number of these keys.

    Computed in at least float32. scores [B, H, T, S], visible broadcastable to them. The deviation of a row of equal
    scores has no gradient.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    count = num_visible(wide, visible)
    centred = (wide - (wide * visible).sum(-1, keepdim=True) / count) * visible
    variance = centred.square().sum(-1, keepdim=True) / count + inside
    varies = variance > 0
    deviation = torch.where(varies, variance, 1.0).sqrt() * varies
    scale = deviation + outside
    z = centred / torch.where(scale > 0, scale, 1.0)
    return z.to(scores.dtype), count.to(scores.dtype)


def masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the visible keys; a row that sees nothing is 0.

    `scores` and `visible` [..., T, S] -> [..., T, S].
    """
    kernel = dispatch.kernel("masked_softmax", scores.device, scores)
    if kernel is not None:
        return kernel(scores, visible)
    hidden = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return hidden.softmax(-1) * visible.any(-1, keepdim=True)
