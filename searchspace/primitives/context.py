"""What an operator is told when it is built, and what travels beside the activations when it runs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from torch import Tensor, nn

from searchspace import registry
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.quantized_linear import QuantizedLinear
from searchspace.spec.arch import DENSE, Format, OpSpec, QuantPolicy

State = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How many tokens there are at most, their 2-D grid (rows, columns) where they have one, and the stride: how many
    tokens of a causal network's sequence one of them stands for."""

    max_len: int
    grid: tuple[int, int] | None = None
    stride: int = 1


@dataclass(frozen=True)
class BuildContext:
    """Where an operator stands in the network; `d_next` is the width that a transition leads to, `repeats` how often
    the stage of a block is run, `keeps_first` whether the head reads the first token, which then must not be dropped.

    Operators make their projections with `linear`, never themselves.
    """

    d_model: int
    layer: int = 0
    num_layers: int = 1
    causal: bool = True
    layout: Layout = field(default_factory=lambda: Layout(max_len=64))
    projection: OpSpec = DENSE
    quant: QuantPolicy = QuantPolicy()
    d_next: int = 0
    repeats: int = 1
    keeps_first: bool = False

    @cached_property
    def anywhere(self) -> BuildContext:
        """The same at the first layer: sizes, costs and validity do not depend on depth."""
        return replace(self, layer=0)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __hash__(self) -> int:
        return self._hash  # a search looks parts up by their context thousands of times a second

    def linear(self, role: str, out: Axis, inp: Axis) -> AxisModule:
        """A map [..., inp] -> [..., out] of this block's projection kind. Roles: q, k, v, o, up, gate, down, ...

        Where the block's policy has a format for the role, its weights are stored in that.
        """
        part = cast(AxisModule, registry.build("projection", self.projection, self, role, out, inp))
        fmt = self.quant.of_role(role)
        return part if fmt == Format() else QuantizedLinear(fmt, part)

    def nested(self, slot: str, spec: OpSpec, *args: Any) -> nn.Module:
        return registry.build(slot, spec, self, *args)


@dataclass(frozen=True)
class Tokens:
    """Facts about the tokens of a batch [B, T, ...].

    valid      [B, T] bool, False at padding; None means all are real
    offsets    of N packed sequences in one row, B = 1: sequence n is the tokens offsets[n] to offsets[n + 1] of it
    positions  [T] or [B, T] int, place of each token in its sequence
    grid       (rows, columns) of an image's tokens
    rotary     (cos, sin) [T, K/2] or [B, T, K/2] of rotary positions, for operators that take them; behind the K/2 of
               the network's base as many of its local base, where it has one
    modality   [B, T] bool, True at visual tokens; None means there are none
    embedding  [W, D], the stem's row of each token, for a head that reads with it
    progress   0..1, share of training done, for operators on a schedule; None means what the model says, else all
    repeat     which run of its stage a block is in, for operators with statistics of their own in each
    shared     what the blocks of this run of the stage leave for later ones of it, by what it is: `lend` and `borrow`
    """

    valid: Tensor | None = None
    offsets: tuple[int, ...] | None = None
    positions: Tensor | None = None
    grid: tuple[int, int] | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    modality: Tensor | None = None
    embedding: Tensor | None = None
    progress: float | None = None
    repeat: int = 0
    shared: dict[Hashable, Any] | None = None

    def lend(self, what: Hashable, value: Any) -> None:
        """Leave something for later blocks, in place of what was left before."""
        if self.shared is not None:
            self.shared[what] = value

    def borrow(self, what: Hashable) -> Any:
        """What an earlier block left; None where none did."""
        return None if self.shared is None else self.shared.get(what)

    def replace(self, **changes: Any) -> Tokens:
        return replace(self, **changes)

    @property
    def sides(self) -> tuple[int, int]:
        """The grid, for what can't do without one."""
        assert self.grid is not None
        return self.grid

    def without_padding(self, x: Tensor) -> Tensor:
        """x [B, T, ...] with 0 at padding."""
        return x if self.valid is None else x * self.valid[(..., *[None] * (x.dim() - 2))]

    def real(self, like: Tensor) -> Tensor:
        """1 at real tokens and 0 at padding, [B, T, 1, ...] in the precision and on the axes of `like` [B, T, ...]."""
        return self.without_padding(like.new_ones(*like.shape[:2], *[1] * (like.dim() - 2)))

    def mean(self, x: Tensor) -> Tensor:
        """x [B, T, ...] -> the mean over the real tokens [B, ...]."""
        if self.valid is None:
            return x.mean(1)
        return self.without_padding(x).sum(1) / self.real(x).sum(1).clamp_min(1.0)

    def is_real(self, b: int, t: int) -> bool:
        """Whether token t of sequence b is not padding, for references that go token by token."""
        return self.valid is None or bool(self.valid[b, t])
