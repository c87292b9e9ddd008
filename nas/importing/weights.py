"""Tensors of a pretrained model by their names in its file, each checked against the shape that the config implies.

Tensors are loaded lazily, so that a model is imported one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.errors import UsageError

KEPT = (torch.float32, torch.bfloat16, torch.float16)  # dtypes that are stored; others become float32


@dataclass(frozen=True)
class Part:
    """A lazily loaded tensor: its shape and dtype are known, `load` reads its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Part:
        """The part for a tensor that is in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def moved(self, change: Callable[[Tensor], Tensor], *shape: int) -> Part:
        """The result of `change`, which reorders or selects values, with an unchanged dtype; `shape`: its new shape."""
        return Part(shape or self.shape, self.dtype, lambda: change(self.load()).contiguous())

    def computed(self, change: Callable[[Tensor], Tensor], *shape: int) -> Part:
        """The result of `change`, computed and stored in float32; `shape`: its new shape, if another."""
        return Part(shape or self.shape, torch.float32, lambda: change(self.load().float()).contiguous())

    def rows(self, start: int, count: int) -> Part:
        """The rows `start` to `start + count - 1`."""
        return self.moved(lambda t: t[start : start + count], count, *self.shape[1:])

    def scaled(self, factor: float) -> Part:
        return self if factor == 1.0 else self.computed(lambda t: t * factor)

    def equals(self, other: Part) -> bool:
        """Whether both have the same shape and values in float32."""
        return torch.equal(self.load().float(), other.load().float())


class Weights:
    """A model's tensors by name. A tensor that is missing, misshapen, not finite or never read is an error."""

    def __init__(self, tensors: Mapping[str, Part], path: Path) -> None:
        self.tensors, self.path = dict(tensors), path
        self.unread = set(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int) -> Part:
        """The tensor `name` in the dtype in which it will be stored. Raises UsageError where it is missing or has
        another shape or an integer dtype, and on loading where it has values that are not finite."""
        if name not in self.tensors:
            raise UsageError(f"{self.path} lacks the tensor {name}")
        held = self.tensors[name]
        if held.shape != shape:
            raise UsageError(
                f"{self.path}: tensor {name} has shape {held.shape}, its config asks for {shape}"
            )
        if not held.dtype.is_floating_point:
            raise UsageError(
                f"{self.path}: tensor {name} is of {held.dtype}; the importer takes floating point"
            )
        self.unread.discard(name)
        dtype = held.dtype if held.dtype in KEPT else torch.float32

        def load() -> Tensor:
            found = held.load().to(dtype)
            if not found.isfinite().all():
                raise UsageError(
                    f"{self.path}: tensor {name} holds NaN or infinite values in {_named(dtype)}"
                )
            return found

        return Part(shape, dtype, load)

    def renamed(self, change: Callable[[str], str]) -> Weights:
        """The tensors with `change` applied to their names. Raises UsageError where two would get the same name."""
        found: dict[str, Part] = {}
        origins: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            new = change(name)
            if new in found:
                raise UsageError(f"{self.path}: the tensors {origins[new]} and {name} stand for the same one")
            found[new], origins[new] = tensor, name
        return Weights(found, self.path)

    def done(self, *left_out: str) -> None:
        """Raises UsageError for a tensor that was never read, except those named in `left_out`."""
        strange = sorted(self.unread.difference(left_out))
        if strange:
            raise UsageError(f"{self.path}: the importer does not know what the tensor {strange[0]} is for")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
