"""What the tests of feature maps share: a map of two groups in float64, and head vectors for it."""

from typing import Any

import torch
from torch import Tensor

from searchspace import registry
from searchspace.primitives.context import BuildContext
from searchspace.spec.arch import OpSpec


def feature_map(op: str, K: int = 4, **items: Any) -> Any:
    """Of two groups with head dim K, initial weights, float64."""
    return registry.build("feature_map", OpSpec.of(op, **items), BuildContext(12), 2, K).double().eval()


def vectors(K: int = 4) -> Tensor:
    """[B, T, G, R, K] for two groups of one head each."""
    return torch.randn(2, 5, 2, 1, K, dtype=torch.float64)
