"""What the biases on scores share: they depend on the distance i - j of query and key alone.

A bias is a module (distance [T, S] int) -> [H, T, S], computed in at least float32: bfloat16 can't tell far distances
apart. Distances are i - j, positive towards the past.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def in_float(distance: Tensor, like: Tensor | None = None) -> Tensor:
    """|i - j| [1, T, S] in the precision of the parameter `like`, at least float32."""
    dtype = torch.get_default_dtype() if like is None else like.dtype
    return distance.abs().to(torch.promote_types(dtype, torch.float32)).unsqueeze(0)


def softplus_inverse(value: float) -> float:
    """x with log(1 + exp(x)) = value."""
    return value + math.log(-math.expm1(-value))


def spread(low: float, high: float, count: int) -> Tensor:
    """`count` values strictly between low and high, evenly: heads that start unlike each other."""
    return low + (high - low) * (torch.arange(count) + 0.5) / count
