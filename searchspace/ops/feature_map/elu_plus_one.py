"""Features elu(x) + 1: positive everywhere, x + 1 above 0, exp(x) below; N = K.

Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236. Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class EluPlusOne(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, K)

    def forward(self, x: Tensor) -> Tensor:
        return elu_plus_one(x)


def reference(module: EluPlusOne, x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1.0, x.clamp(max=0.0).exp())


OPERATOR = Operator(
    name="elu_plus_one",
    slot="feature_map",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236",
    build=EluPlusOne,
    reference=reference,
    complexity="K",
)
