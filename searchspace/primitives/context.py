"""What an operator gets when it is built, and the facts about tokens that it gets when it runs."""

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
    """Maximum number of tokens, their 2-D grid (rows, columns) if any, and the stride.

    The stride is how many tokens of a causal network's sequence one entry represents.
    """

    max_len: int
    grid: tuple[int, int] | None = None
    stride: int = 1


@dataclass(frozen=True)
class BuildContext:
    """An operator's place in the network.

    `d_next` is the width after a transition, `repeats` how often the block's stage runs, `keeps_first` whether the head
    reads the first token, which must then not be dropped. Operators create projections with `linear`, never directly.
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
        """The context of the first layer: sizes, costs and validity do not depend on depth."""
        return replace(self, layer=0)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __hash__(self) -> int:
        return self._hash  # a search looks up parts by context thousands of times per second

    def linear(self, role: str, out: Axis, inp: Axis) -> AxisModule:
        """Return a map [..., inp] -> [..., out] of this block's projection kind. Roles: q, k, v, o, up, gate, down, ...

        Its weights are stored in the format that the block's policy has for the role, if any.
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
    offsets    of N packed sequences in one row, B = 1: sequence n has tokens offsets[n] to offsets[n + 1] - 1
    positions  [T] or [B, T] int, place of each token in its sequence
    grid       (rows, columns) of an image's tokens
    rotary     (cos, sin) [T, K/2] or [B, T, K/2] of rotary positions, for operators that use them; followed by as many
               of the local base, where the network has one
    modality   [B, T] bool, True at visual tokens; None means there are none
    embedding  [W, D], the stem's token embedding, for a head that shares it
    progress   0..1, share of training done, for operators with a schedule; None means the model's, else 1
    repeat     run of the stage that a block is in, for operators with statistics per run
    shared     what blocks leave for later blocks in this run of the stage, by key: `lend` and `borrow`
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
        """Store a value for later blocks, replacing an earlier one."""
        if self.shared is not None:
            self.shared[what] = value

    def borrow(self, what: Hashable) -> Any:
        """Return what an earlier block stored; None where there is nothing."""
        return None if self.shared is None else self.shared.get(what)

    def replace(self, **changes: Any) -> Tokens:
        return replace(self, **changes)

    @property
    def sides(self) -> tuple[int, int]:
        """The grid, for operators that need one."""
        assert self.grid is not None
        return self.grid

    def without_padding(self, x: Tensor) -> Tensor:
        """x [B, T, ...] with 0 at padding."""
        return x if self.valid is None else x * self.valid[(..., *[None] * (x.dim() - 2))]

    def real(self, like: Tensor) -> Tensor:
        """Return 1 at real tokens and 0 at padding, [B, T, 1, ...], in the dtype and rank of `like` [B, T, ...]."""
        return self.without_padding(like.new_ones(*like.shape[:2], *[1] * (like.dim() - 2)))

    def mean(self, x: Tensor) -> Tensor:
        """x [B, T, ...] -> the mean over the real tokens [B, ...]."""
        if self.valid is None:
            return x.mean(1)
        return self.without_padding(x).sum(1) / self.real(x).sum(1).clamp_min(1.0)

    def is_real(self, b: int, t: int) -> bool:
        """Return whether token t of sequence b is real, for references that go token by token."""
        return self.valid is None or bool(self.valid[b, t])
