"""Tensors of a pretrained model by their names in its file, each in the shape that the config asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas.errors import UsageError


class Weights:
    """Read in float32; what is missing, has another shape, is not finite or is never read is refused by name."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self.tensors, self.path = dict(tensors), path
        self.unread = set(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor in float32. Raises UsageError where it is not there or not as described above."""
        if name not in self.tensors:
            raise UsageError(f"{self.path} lacks the tensor {name}")
        held = self.tensors[name]
        if tuple(held.shape) != shape:
            raise UsageError(
                f"{self.path}: tensor {name} has shape {tuple(held.shape)}, its config asks for {shape}"
            )
        if not held.is_floating_point():
            raise UsageError(
                f"{self.path}: tensor {name} is of {held.dtype}; the importer takes floating point"
            )
        self.unread.discard(name)
        found = held.to(torch.float32, copy=True).contiguous()
        if not found.isfinite().all():
            raise UsageError(f"{self.path}: tensor {name} holds NaN or infinite values in float32")
        return found

    def linear(self, name: str, d_out: int, d_in: int, bias: bool = True) -> dict[str, Tensor]:
        """Weight [d_out, d_in] and bias [d_out] of a linear map."""
        found = {"weight": self.take(f"{name}.weight", d_out, d_in)}
        return found | {"bias": self.take(f"{name}.bias", d_out)} if bias else found

    def transposed(self, name: str, d_out: int, d_in: int) -> dict[str, Tensor]:
        """The same of a map whose weight is stored as [d_in, d_out]."""
        found = self.take(f"{name}.weight", d_in, d_out).T.contiguous()
        return {"weight": found, "bias": self.take(f"{name}.bias", d_out)}

    def norm(self, name: str, width: int, bias: bool = True) -> dict[str, Tensor]:
        """Gain and shift, each [width]."""
        found = {"weight": self.take(f"{name}.weight", width)}
        return found | {"bias": self.take(f"{name}.bias", width)} if bias else found

    def renamed(self, change: Callable[[str], str]) -> Weights:
        """The same by other names. Raises UsageError where two tensors would get the same one."""
        found: dict[str, Tensor] = {}
        origins: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            new = change(name)
            if new in found:
                raise UsageError(f"{self.path}: the tensors {origins[new]} and {name} stand for the same one")
            found[new], origins[new] = tensor, name
        return Weights(found, self.path)

    def without_prefix(self, prefix: str) -> Weights:
        """The same where every name that starts with `prefix` leaves it out."""
        return self.renamed(lambda name: name.removeprefix(prefix))

    def done(self, *left_out: str) -> None:
        """Raises UsageError for a tensor that nothing was made of, save those with the names `left_out`."""
        strange = sorted(self.unread.difference(left_out))
        if strange:
            raise UsageError(f"{self.path}: the importer does not know what the tensor {strange[0]} is for")
