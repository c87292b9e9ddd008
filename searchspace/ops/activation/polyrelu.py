"""PolyReLU: y = sum_i a_i relu(x)^i, i = 0 .. r, with learned scalars, initially a_0 = 0 and a_i = 1 / 3.

Zhuo et al., "Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models", arXiv:2411.03884.
It works channel by channel, so a slice of its input gives a slice; a lower order keeps the first coefficients.
Shapes: x [..., F].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import initial_polynomial
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class PolyReLU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.order = spec["order"]
        self.declare("relu_coefficients", (Axis.of(powers=self.order + 1),), initial_polynomial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of x [..., F], [..., F]."""
        x, y = torch.relu(x), self.relu_coefficients[self.order]
        for i in reversed(range(self.order)):
            y = y * x + self.relu_coefficients[i]
        return y


def reference(module: PolyReLU, x: Tensor) -> Tensor:
    """x and the result [..., F]."""
    positive = torch.where(x > 0, x, 0.0)
    return torch.stack([a * positive**i for i, a in enumerate(module.relu_coefficients)]).sum(0)


OPERATOR = Operator(
    name="polyrelu",
    slot="activation",
    paper="Zhuo et al. 2024, arXiv:2411.03884",
    build=PolyReLU,
    ranges={"order": Range(1, 8, "higher powers of large activations overflow")},
    reference=reference,
    choices={"order": (2, 3)},
    catalogue=(37,),
    complexity="T F r",
)
