"""Features exp(x - max_c x_c): the largest is 1, so none overflows; N = K.

For queries the shift cancels in the normalisation and this is exp; keys are weighed by their shape alone, not their
size. Ours; exponential features: Peng et al., "Random Feature Attention", arXiv:2103.02143, and Zhang et al., "The
Hedgehog & the Porcupine", arXiv:2402.04347. Shapes: x [B, T, G, R, K] -> [B, T, G, R, K].
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Exp(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, K)

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.amax(-1, keepdim=True)).exp()


def reference(module: Exp, x: Tensor) -> Tensor:
    return x.exp() / x.exp().max(-1, keepdim=True).values


OPERATOR = Operator(
    name="exp",
    slot="feature_map",
    paper="Zhang et al. 2024, arXiv:2402.04347",
    build=Exp,
    reference=reference,
    complexity="K",
)
