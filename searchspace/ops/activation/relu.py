"""ReLU: max(x, 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import Pointwise, pointwise
from searchspace.registry import Operator


def reference(module: Pointwise, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.0)


OPERATOR = Operator(
    name="relu",
    slot="activation",
    paper="Nair and Hinton 2010",
    build=pointwise(torch.relu),
    reference=reference,
    complexity="T F",
)
