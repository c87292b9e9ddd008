"""Functions shared by score biases, which depend only on the distance i - j of query and key.

A bias is a module (distance [T, S] int) -> [H, T, S], computed in at least float32, since bfloat16 can't distinguish
large distances. Distances are i - j, positive for keys before the query.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from searchspace.primitives.axes import Init


def in_float(distance: Tensor, like: Tensor | None = None) -> Tensor:
    """|i - j| [1, T, S] of distance [T, S], in the dtype of the parameter `like`, at least float32."""
    dtype = torch.get_default_dtype() if like is None else like.dtype
    return distance.abs().to(torch.promote_types(dtype, torch.float32)).unsqueeze(0)


def alibi_slopes(H: int) -> list[float]:
    """ALiBi's slopes of H heads, also if H is not a power of two (Press et al., arXiv:2108.12409)."""
    n = 1 << (H.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * h / n) for h in range(1, n + 1)]
    return slopes + [2.0 ** (-4.0 * h / n) for h in range(1, 2 * n + 1, 2)][: H - n]


def softplus_inverse(value: float) -> float:
    """x such that log(1 + exp(x)) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))


def spread(high: float, count: int) -> list[float]:
    """`count` evenly spaced values strictly between 0 and `high`, so that heads start with different values."""
    return [high * (h + 0.5) / count for h in range(count)]


def values(starts: list[float]) -> Init:
    """An initializer that sets a parameter to the values `starts`."""
    return partial(_start_at, starts=starts)


def _start_at(tensor: Tensor, starts: list[float]) -> None:
    tensor.copy_(torch.tensor(starts))
