"""Features softmax(x) over the channels of a head: every key has total weight 1, which bounds the state; N = K.

Shen et al., "Efficient Attention", arXiv:1812.01243 (queries); on keys too in Lan et al., "Liger", arXiv:2503.01496.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.linear import Pointwise, pointwise
from searchspace.registry import Operator


def over_channels(x: Tensor) -> Tensor:
    """x [..., K] -> [..., K]."""
    return x.softmax(-1)


def reference(module: Pointwise, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, K]."""
    return x.exp() / x.exp().sum(-1, keepdim=True)


OPERATOR = Operator(
    name="softmax_dim",
    slot="feature_map",
    paper="Shen et al. 2018, arXiv:1812.01243",
    build=pointwise(over_channels),
    reference=reference,
    complexity="K",
)
