"""Named axes: every tensor declares what its dimensions mean, so that one set of weights serves many networks.

A dimension may be a product, outermost first: `Axis.of(G=2, R=3, K=16)` has 96 entries, of which a smaller network
keeps a prefix in each factor. Letters: D model width, G key/value groups, R query heads per group, K key dim, V value
dim, F ffn width, P rank, M codes, W vocabulary, L positions, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

Init = Callable[[Tensor], object]
ROLES = ("parameter", "statistic", "calibrated", "fixed")


@dataclass(frozen=True)
class Axis:
    factors: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, **sizes: int) -> Axis:
        return cls(tuple(sizes.items()))

    @property
    def size(self) -> int:
        return math.prod(size for _, size in self.factors)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.factors)

    @property
    def names(self) -> str:
        return "*".join(name for name, _ in self.factors)


@dataclass(frozen=True)
class Declared:
    """A tensor's axes, role and initialisation.

    parameter   trained by gradient
    statistic   the forward returns its update in training mode; recalibrated for each extracted network
    calibrated  set by the operator's `calibrate`, saved with the weights
    fixed       a constant per entry of an axis, such as the slope of a head, which a slice keeps
    Other constants are not tensors of a module: they are computed from the configuration and cached per device.
    """

    axes: tuple[Axis, ...]
    role: str
    init: Init

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.names for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)


class AxisModule(nn.Module):
    """A module that declares its tensors with axes instead of registering them directly."""

    if TYPE_CHECKING:  # declared tensors become attributes at run time, which a type checker can't see

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self.declared: dict[str, Declared] = {}

    def declare(self, name: str, axes: tuple[Axis, ...], init: Init, role: str = "parameter") -> None:
        """Create tensor `name`, initialised unless on the meta device. Raises ValueError for an unknown role."""
        if role not in ROLES:
            raise ValueError(f"tensor {name}: unknown role {role!r}; known: {', '.join(ROLES)}")
        self.declared[name] = declared = Declared(axes, role, init)
        tensor = torch.empty(declared.shape)
        if not tensor.is_meta:
            with torch.no_grad():
                init(tensor)
        if role == "parameter":
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)


def declared_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Declared]]:
    """Yield (full name, declaration) of every tensor below `module`, in the order of its state dict."""
    for path, part in module.named_modules(prefix=prefix):
        if isinstance(part, AxisModule):
            for name, declared in part.declared.items():
                yield (f"{path}.{name}" if path else name), declared


# Initialisers are stored in modules, so none of them may be a nested function: a network must be copyable and
# picklable.


def constant(value: float) -> Init:
    return partial(nn.init.constant_, val=value)


def ones(tensor: Tensor) -> None:
    """Fill a tensor [...] with 1."""
    tensor.fill_(1.0)


def zeros(tensor: Tensor) -> None:
    """Fill a tensor [...] with 0."""
    tensor.zero_()


def normal(std: float) -> Init:
    return partial(nn.init.normal_, std=std)


def fan_in(gain: float = 1.0) -> Init:
    """Return an initialiser: normal with standard deviation gain / sqrt(size of the last axis)."""
    return partial(_fan_in, gain=gain)


def _fan_in(tensor: Tensor, gain: float) -> None:
    tensor.normal_(0.0, gain / math.sqrt(tensor.shape[-1]))
