"""Activations without weights, and the module that turns one into an operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.spec.arch import OpSpec


def gelu_tanh(x: Tensor) -> Tensor:
    """Elementwise, x [...]: GELU in its tanh form."""
    return F.gelu(x, approximate="tanh")


def relu_squared(x: Tensor) -> Tensor:
    """Elementwise, x [...]: max(x, 0)^2."""
    return torch.relu(x).square()


def identity(x: Tensor) -> Tensor:
    """Returns x [...]."""
    return x


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": gelu_tanh,
    "gelu_erf": F.gelu,
    "relu": torch.relu,
    "relu_squared": relu_squared,
    "logistic_sigmoid": torch.sigmoid,
    "identity": identity,
}


def gated_activation(u: Tensor, g: Tensor, activation: str) -> Tensor:
    """Return act(u) * g for an activation of GATES, u and g [..., F] -> [..., F]."""
    kernel = dispatch.kernel("gated_activation", u.device, u)
    return GATES[activation](u) * g if kernel is None else kernel(u, g, activation)


def elu_plus_one(x: Tensor) -> Tensor:
    """Positive everywhere: x + 1 above 0, exp(x) below. Katharopoulos et al., arXiv:2006.16236.

    Elementwise, x [...].
    """
    return F.elu(x) + 1.0


class Weightless(AxisModule):
    """An activation without weights, [..., F] -> [..., F]."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def weightless(function: Callable[[Tensor], Tensor]) -> Callable[[OpSpec, BuildContext], Weightless]:
    """Return the build function of an activation [...] -> [...] without weights and settings."""
    return lambda spec, context: Weightless(function)


def initial_polynomial(coefficients: Tensor) -> None:
    """Fill `coefficients` [degree + 1] as PolyCom does: 0 for the constant, 1 / 3 for every power.

    Zhuo et al., arXiv:2411.03884.
    """
    coefficients.fill_(1 / 3)
    coefficients[0] = 0.0


def capped(x: Tensor, cap: float) -> Tensor:
    """Return c tanh(x / c), between -c and c, or x where c is 0. Elementwise, x [...]."""
    return cap * torch.tanh(x / cap) if cap else x
