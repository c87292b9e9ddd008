"""Taylor features: their product is the second-order expansion of exp; N = 1 + K + K (K + 1) / 2.

    phi(x) = [1, x / K^(1/4), x_i^2 / sqrt(2 K), x_i x_j / sqrt(K) (i < j)]
    phi(q) . phi(k) = 1 + s + s^2 / 2          s = q . k / sqrt(K)

Arora et al., "Simple linear attention language models balance the recall-throughput tradeoff" (Based),
arXiv:2402.18668. Features may be negative but products are at least 1/2, so attention weights are positive. With narrow
heads (16) and interleaved layers of window attention and convolution, this is Based.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, N].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Taylor(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, 1 + K + K * (K + 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
        x = x / x.shape[-1] ** 0.25
        i, j = torch.triu_indices(x.shape[-1], x.shape[-1], offset=1, device=x.device)
        squares, products = x.square() / math.sqrt(2), x[..., i] * x[..., j]
        return torch.cat((torch.ones_like(x[..., :1]), x, squares, products), -1)


def reference(module: Taylor, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, N]."""
    K = x.shape[-1]
    pairs = [x[..., i] * x[..., j] / math.sqrt(K) for i in range(K) for j in range(i + 1, K)]
    squares = [x[..., i] * x[..., i] / math.sqrt(2 * K) for i in range(K)]
    return torch.stack((torch.ones_like(x[..., 0]), *(x / K**0.25).unbind(-1), *squares, *pairs), -1)


OPERATOR = Operator(
    name="taylor",
    slot="feature_map",
    paper="Arora et al. 2024, arXiv:2402.18668",
    build=Taylor,
    reference=reference,
    catalogue=(57,),
    complexity="K^2",
)
