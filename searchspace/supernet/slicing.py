"""Prefix slices along named axes: where a small network's tensor is within the shared one."""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.axes import Axis, Declared


def take(shared: Tensor, have: tuple[Axis, ...], want: tuple[Axis, ...]) -> Tensor:
    """Return the part of `shared` (axes `have`) that a network with axes `want` uses: a prefix of every factor.

    A view where only whole dimensions are cut, a copy where an inner factor is; gradients only reach the part. `shared`
    has one dimension [...] for each axis of `have`.
    """
    if have == want:
        return shared
    split = shared.view(*(size for axis in have for size in axis.sizes))
    for dim, size in enumerate(size for axis in want for size in axis.sizes):
        split = split.narrow(dim, 0, size)
    return split.reshape(*(axis.size for axis in want))


def widest(name: str, a: Declared, b: Declared) -> Declared:
    """Return the declaration that covers both. Raises ValueError, naming the tensor, where kinds of axes differ."""
    if a.names != b.names or a.role != b.role:
        raise ValueError(
            f"tensor {name} can't be shared: one operator declares {a.role} {a.names}, another {b.role} {b.names}"
        )
    axes = tuple(_widest_axis(x, y) for x, y in zip(a.axes, b.axes, strict=True))
    return a if axes == a.axes else Declared(axes, a.role, b.init if axes == b.axes else a.init)


def _widest_axis(a: Axis, b: Axis) -> Axis:
    return Axis(tuple((n, max(x, y)) for (n, x), (_, y) in zip(a.factors, b.factors, strict=True)))
