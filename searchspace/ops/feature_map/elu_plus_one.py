"""Features elu(x) + 1: positive everywhere, x + 1 above 0, exp(x) below; N = K.

Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236. Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.linear import Pointwise, pointwise
from searchspace.registry import Operator


def reference(module: Pointwise, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, K]."""
    return torch.where(x > 0, x + 1.0, x.clamp(max=0.0).exp())


OPERATOR = Operator(
    name="elu_plus_one",
    slot="feature_map",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236",
    build=pointwise(elu_plus_one),
    reference=reference,
    complexity="K",
)
