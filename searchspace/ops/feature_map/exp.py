"""Features exp(x - max_c x_c): the largest is 1, so none overflows; N = K.

For queries the shift cancels in the normalisation, which gives exp; for keys it removes the size and keeps the shape.
The shift is ours; exponential features: Peng et al., "Random Feature Attention", arXiv:2103.02143, and Zhang et al.,
"The Hedgehog & the Porcupine", arXiv:2402.04347. Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.linear import Pointwise, pointwise
from searchspace.registry import Operator


def shifted_exp(x: Tensor) -> Tensor:
    """x [..., K] -> [..., K]."""
    return (x - x.amax(-1, keepdim=True)).exp()


def reference(module: Pointwise, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, K]."""
    return x.exp() / x.exp().max(-1, keepdim=True).values


OPERATOR = Operator(
    name="exp",
    slot="feature_map",
    paper="Zhang et al. 2024, arXiv:2402.04347",
    build=pointwise(shifted_exp),
    reference=reference,
    complexity="K",
)
