"""PolyNorm: y = a_0 + sum_i a_i N(x^i), i = 1 .. r, N(z) = z / sqrt(mean(z^2) + eps) over the channels of a token.

The coefficients are learned scalars, initially a_0 = 0 and a_i = 1 / 3. Zhuo et al., "Polynomial Composition
Activations: Unleashing the Dynamics of Large Language Models", arXiv:2411.03884. The mean is over the channels of the
slice: a narrower FFN normalises over fewer channels, so it is not a slice of the wider one's output. A lower order
keeps the first coefficients. Shapes: x [..., F].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import initial_polynomial
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class PolyNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.order = spec["order"]
        self.declare("norm_coefficients", (Axis.of(powers=self.order + 1),), initial_polynomial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of x [..., F], [..., F]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # the mean of x^6 overflows half precision
        power, y = wide, self.norm_coefficients[0].to(wide.dtype)
        for i in range(1, self.order + 1):
            y = y + self.norm_coefficients[i] * F.rms_norm(power, power.shape[-1:], eps=EPS)
            power = power * wide
        return y.to(x.dtype)


def reference(module: PolyNorm, x: Tensor) -> Tensor:
    """x and the result [..., F]."""
    a = module.norm_coefficients
    powers = [x**i for i in range(1, module.order + 1)]
    normed = [p / torch.sqrt(p.square().mean(-1, keepdim=True) + EPS) for p in powers]
    return a[0] + sum((c * p for c, p in zip(a[1:], normed, strict=True)), torch.zeros_like(x))


OPERATOR = Operator(
    name="polynorm",
    slot="activation",
    paper="Zhuo et al. 2024, arXiv:2411.03884",
    build=PolyNorm,
    ranges={"order": Range(1, 8, "higher powers of large activations overflow")},
    reference=reference,
    choices={"order": (2, 3)},
    catalogue=(37,),
    complexity="T F r",
)
