"""Features relu(x): sparse; a vector without positive entries has no features and its row gives 0. N = K.

Qin et al., "cosFormer", arXiv:2202.08791; Cai et al., "EfficientViT", arXiv:2205.14756.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class ReLU(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, K)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def reference(module: ReLU, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.0)


OPERATOR = Operator(
    name="relu_features",
    slot="feature_map",
    paper="Qin et al. 2022, arXiv:2202.08791",
    build=ReLU,
    reference=reference,
    complexity="K",
)
