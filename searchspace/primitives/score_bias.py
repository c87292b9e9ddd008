"""What the biases on scores share: they depend on the distance i - j of query and key alone.

A bias is a module (distance [T, S] int) -> [H, T, S], computed in at least float32: bfloat16 can't tell far distances
apart. Distances are i - j, positive towards the past.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from searchspace.primitives.axes import Init


def in_float(distance: Tensor, like: Tensor | None = None) -> Tensor:
    """|i - j| [1, T, S] in the precision of the parameter `like`, at least float32."""
    dtype = torch.get_default_dtype() if like is None else like.dtype
    return distance.abs().to(torch.promote_types(dtype, torch.float32)).unsqueeze(0)


def alibi_slopes(H: int) -> list[float]:
    """The slopes of H heads, as published also where H is no power of two."""
    n = 1 << (H.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * h / n) for h in range(1, n + 1)]
    return slopes + [2.0 ** (-4.0 * h / n) for h in range(1, 2 * n + 1, 2)][: H - n]


def softplus_inverse(value: float) -> float:
    """x with log(1 + exp(x)) = value."""
    return value + math.log(-math.expm1(-value))


def spread(high: float, count: int) -> list[float]:
    """`count` values strictly between 0 and `high`, evenly: heads that start unlike each other."""
    return [high * (h + 0.5) / count for h in range(count)]


def values(starts: list[float]) -> Init:
    """Start at these values."""
    return partial(_start_at, starts=starts)


def _start_at(tensor: Tensor, starts: list[float]) -> None:
    tensor.copy_(torch.tensor(starts))
