"""GELU in its exact form: x Phi(x), Phi the normal distribution function. Hendrycks and Gimpel, arXiv:1606.08415."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import Weightless, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


OPERATOR = Operator(
    name="gelu_erf",
    slot="activation",
    paper="Hendrycks and Gimpel 2016, arXiv:1606.08415",
    build=weightless(F.gelu),
    reference=reference,
    complexity="T F",
)
