"""Logistic sigmoid: 1 / (1 + exp(-x)), the gate of the first gated linear unit. Dauphin et al., arXiv:1612.08083."""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import Weightless, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return 1 / (1 + torch.exp(-x))


OPERATOR = Operator(
    name="logistic_sigmoid",
    slot="activation",
    paper="Dauphin et al. 2016, arXiv:1612.08083",
    build=weightless(torch.sigmoid),
    reference=reference,
    complexity="T F",
)
