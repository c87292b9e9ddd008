"""LayerNorm of queries and keys over the channels of a head, with weights and biases shared by all heads.

    q <- w_q (q - mean(q)) / sqrt(var(q) + eps) + b_q, and k likewise

Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", arXiv:2302.05442 (who leave the biases out).
Before rotary positions. Shapes: q [B, T, H, K], k [B, T, G, K].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class QKLayerNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        for name, init in (("q_weight", ones), ("q_bias", zeros), ("k_weight", ones), ("k_bias", zeros)):
            self.declare(name, (Axis.of(K=heads.K),), init)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, T, H, K] and k [B, T, G, K] -> normalised q and k."""
        q = F.layer_norm(q, q.shape[-1:], self.q_weight, self.q_bias, EPS)
        return q, F.layer_norm(k, k.shape[-1:], self.k_weight, self.k_bias, EPS)


def reference(module: QKLayerNorm, q: Tensor, k: Tensor) -> Tensor:
    """Return queries and keys concatenated, [B, T, H + G, K]."""
    q, k = (x - x.mean(-1, keepdim=True) for x in (q, k))
    q, k = (x / torch.sqrt((x**2).mean(-1, keepdim=True) + EPS) for x in (q, k))
    return torch.cat((q * module.q_weight + module.q_bias, k * module.k_weight + module.k_bias), 2)


OPERATOR = Operator(
    name="qk_layernorm",
    slot="qk_norm",
    paper="Dehghani et al. 2023, arXiv:2302.05442",
    build=QKLayerNorm,
    reference=reference,
    catalogue=(112,),
    complexity="T H K",
)
