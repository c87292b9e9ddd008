"""Pointwise activations by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def relu_squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def elu_plus_one(x: Tensor) -> Tensor:
    """Positive everywhere: x + 1 above 0, exp(x) below. Katharopoulos et al., arXiv:2006.16236."""
    return F.elu(x) + 1.0


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu_tanh,
    "relu_squared": relu_squared,
    "silu": F.silu,
}
