"""ReLU: max(x, 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import Weightless, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return torch.where(x > 0, x, 0.0)


OPERATOR = Operator(
    name="relu",
    slot="activation",
    paper="Nair and Hinton 2010",
    build=weightless(torch.relu),
    reference=reference,
    complexity="T F",
)
