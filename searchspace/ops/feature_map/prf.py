"""Positive random features: their product is an unbiased estimate of exp(q . k); N is a setting.

    phi(x) = exp(w_n . x - |x|^2 / 2) / sqrt(N)          w_n Gaussian, orthogonal in blocks of K

Choromanski et al., "Rethinking Attention with Performers", arXiv:2009.14794. `unit_norm` first scales x to length 1, as
in Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", arXiv:2106.12566;
otherwise x is divided by K^(1/4), as for softmax. The directions are fixed by the configuration.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, N].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap, positive_random_features, random_directions, unit
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class PRF(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, spec["num_features"])
        self.K, self.unit_norm = K, spec["unit_norm"]

    def scaled(self, x: Tensor) -> Tensor:
        """x [..., K] -> unit vectors or x / K^(1/4), [..., K]."""
        return unit(x) if self.unit_norm else x / self.K**0.25

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
        return positive_random_features(self.scaled(x), self.num_features)

    def flops(self, num_vectors: int) -> int:
        return 2 * num_vectors * self.K * self.num_features


def reference(module: PRF, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
    x, N = module.scaled(x), module.num_features
    directions = random_directions(N, module.K, x.device, x.dtype)
    found = [torch.exp((x * w).sum(-1) - (x * x).sum(-1) / 2) for w in directions]
    return torch.stack(found, -1) / math.sqrt(N)


OPERATOR = Operator(
    name="prf",
    slot="feature_map",
    paper="Choromanski et al. 2020, arXiv:2009.14794",
    build=PRF,
    reference=reference,
    choices={"num_features": (16, 32), "unit_norm": (True, False)},
    complexity="K N",
)
