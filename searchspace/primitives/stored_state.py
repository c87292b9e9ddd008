"""What a mixer keeps of the tokens before, in few bits between two calls.

    bf16    as bfloat16
    int8    each row (the last axis: one key, one value) with a scale, codes -127..127
    int4    each row with a scale and an offset, two codes in a byte

A row that was read back and is stored again keeps its codes, so what was kept is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searchspace.primitives.integer_matmul import quantize_rows
from searchspace.primitives.number_formats import (
    dequantize_groups,
    pack_pairs,
    quantize_groups,
    unpack_pairs,
    whole,
)
from searchspace.spec.arch import Format


@dataclass(frozen=True)
class StoredRows:
    """A tensor [..., K] of `dtype` as its codes and what reads them."""

    codes: Tensor
    scale: Tensor
    offset: Tensor | None
    K: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes + (0 if self.offset is None else self.offset.nbytes)


@dataclass(frozen=True)
class StoredHalf:
    values: Tensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def store(state: Any, fmt: Format) -> Any:
    """The state with its floating-point tensors in the format."""
    if isinstance(state, dict):
        return {name: store(value, fmt) for name, value in state.items()}
    if not isinstance(state, Tensor) or not state.is_floating_point():
        return state
    if fmt.weights == "bf16":
        return StoredHalf(state.bfloat16(), state.dtype)
    K = state.shape[-1]
    if fmt.weights == "int8":
        return StoredRows(*quantize_rows(state), None, K, state.dtype)
    rows = whole(state, 2)
    codes, scale, offset = quantize_groups(rows, rows.shape[-1])
    return StoredRows(pack_pairs(codes, rows.shape[-1]), scale, offset, K, state.dtype)


def read(state: Any) -> Any:
    """What `store` was given, rounded."""
    if isinstance(state, dict):
        return {name: read(value) for name, value in state.items()}
    if isinstance(state, StoredHalf):
        return state.values.to(state.dtype)
    if not isinstance(state, StoredRows):
        return state
    if state.offset is None:
        return (state.codes.float() * state.scale.unsqueeze(-1)).to(state.dtype)
    codes = unpack_pairs(state.codes, 2 * state.codes.shape[-1])
    return dequantize_groups(codes, state.scale, state.offset)[..., : state.K].to(state.dtype)


def stored_bytes(rows: int, K: int, fmt: Format) -> int:
    """Bytes of `rows` rows of K values."""
    if fmt.weights == "bf16":
        return 2 * rows * K
    return rows * (K + 4) if fmt.weights == "int8" else rows * (-(-K // 2) + 4)
