"""Deterministic parameter-free projection: products of rectified channels with their neighbours; N = 2 K nu.

    r = relu([x, -x])          phi(x) = [r * roll(r, 1), ..., r * roll(r, nu)]

Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers", arXiv:2102.11174. At most one of x and -x is
positive in a channel, so features of different directions rarely overlap. Shapes: x [B, T, G, R, K] -> [B, T, G, R, N].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class DPFP(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, 2 * K * spec["nu"])
        self.nu = spec["nu"]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
        r = torch.cat((x, -x), -1).relu()
        return torch.cat([r * r.roll(shift, -1) for shift in range(1, self.nu + 1)], -1)


def reference(module: DPFP, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
    K = x.shape[-1]
    r = [torch.where(c > 0, c, 0.0) for c in (*x.unbind(-1), *(-x).unbind(-1))]
    pairs = [(i, (i - shift) % (2 * K)) for shift in range(1, module.nu + 1) for i in range(2 * K)]
    return torch.stack([r[i] * r[j] for i, j in pairs], -1)


OPERATOR = Operator(
    name="dpfp",
    slot="feature_map",
    paper="Schlag et al. 2021, arXiv:2102.11174",
    build=DPFP,
    ranges={"nu": Range(1, 64)},
    reference=reference,
    choices={"nu": (1, 2)},
    complexity="K nu",
)
