"""Features relu(x): sparse; a vector without positive entries has no features, and its output is 0. N = K.

Qin et al., "cosFormer", arXiv:2202.08791; Cai et al., "EfficientViT", arXiv:2205.14756.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.linear import Pointwise, pointwise
from searchspace.registry import Operator


def reference(module: Pointwise, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, K]."""
    return torch.where(x > 0, x, 0.0)


OPERATOR = Operator(
    name="relu_features",
    slot="feature_map",
    paper="Qin et al. 2022, arXiv:2202.08791",
    build=pointwise(torch.relu),
    reference=reference,
    complexity="K",
)
