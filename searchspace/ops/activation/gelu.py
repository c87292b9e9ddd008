"""GELU in its tanh form: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Hendrycks and Gimpel, arXiv:1606.08415."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.activations import Weightless, gelu_tanh, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


OPERATOR = Operator(
    name="gelu",
    slot="activation",
    paper="Hendrycks and Gimpel 2016, arXiv:1606.08415",
    build=weightless(gelu_tanh),
    reference=reference,
    complexity="T F",
)
