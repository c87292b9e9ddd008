"""Squared ReLU: max(x, 0)^2. So et al., "Primer", arXiv:2109.08668."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import Weightless, relu_squared, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return torch.where(x > 0, x * x, 0.0)


OPERATOR = Operator(
    name="relu_squared",
    slot="activation",
    paper="Primer, So et al. 2021, arXiv:2109.08668",
    build=weightless(relu_squared),
    reference=reference,
    complexity="T F",
)
