"""SiLU: x sigmoid(x). Elfwing et al., arXiv:1702.03118."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import Weightless, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return x / (1 + torch.exp(-x))


OPERATOR = Operator(
    name="silu",
    slot="activation",
    paper="Elfwing et al. 2017, arXiv:1702.03118",
    build=weightless(F.silu),
    reference=reference,
    complexity="T F",
)
