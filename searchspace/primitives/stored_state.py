"""Low-bit storage of a mixer's state between two calls.

    bf16            as bfloat16
    int8            each row (the last axis: one key, one value) with a scale, codes -127..127
    int4            each row with a scale and an offset, two codes per byte
    stairs16_8_4    the rows of the last 16 tokens as bfloat16, of the 48 before in 8 bits, the others in 4
    zip8_4, zip4_2  rows in the first number of bits for the fewest tokens that received 0.97 of the recent attention,
                    but at most half of the tokens; the others in the second

Only rows of tokens are stored this way. Tensors of fixed size (recurrent matrices, inputs of a convolution) stay
native, as do single numbers per token (sums, flags). A row that is read back and stored again in as many bits keeps its
codes, so it is rounded only once.

Stairs by age: Li, "The Nature of Mathematical Modeling and Probabilistic Optimization Engineering in Generative AI",
2024. By attention: ZipVL, He et al., arXiv:2410.08584, to which the limit of half the tokens is added, so that the size
of a state is known in advance. A mixer that counts attention has a method `importance`: state -> [B, S, G] for rows
[B, S, G, K].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
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

BITS: dict[str, tuple[int, ...]] = {
    "bf16": (16,),
    "int8": (8,),
    "int4": (4,),
    "stairs16_8_4": (16, 8, 4),
    "zip8_4": (8, 4),
    "zip4_2": (4, 2),
}
AGES = (16, 64)  # in tokens, from which a row is stored in fewer bits
SHARE, MOST = 0.97, 0.5  # of the attention, and of the tokens, in the larger number of bits

Importance = Callable[[Any], Tensor]


@dataclass(frozen=True)
class StoredRows:
    """Rows [..., K] of `dtype` as codes with scale and offset; for bfloat16 the codes are the values."""

    format: Format
    bits: int
    codes: Tensor
    scale: Tensor
    offset: Tensor
    K: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes + self.offset.nbytes

    def read(self) -> Tensor:
        """Return the rows [..., K] in `dtype`."""
        if self.bits == 16:
            return self.codes.to(self.dtype)
        if self.bits == 8:
            return (self.codes.float() * self.scale.unsqueeze(-1)).to(self.dtype)
        codes = unpack_pairs(self.codes, 2 * self.codes.shape[-1])
        if self.bits == 2:
            codes = torch.cat((codes & 3, codes >> 2), -1)
        return dequantize_groups(codes, self.scale, self.offset, self.bits)[..., : self.K].to(self.dtype)


@dataclass(frozen=True)
class StoredByImportance:
    """Rows [..., K], of which those with `is_high` [...] are stored in more bits."""

    format: Format
    is_high: Tensor
    high: StoredRows
    low: StoredRows

    @property
    def nbytes(self) -> int:
        return self.is_high.nbytes + self.high.nbytes + self.low.nbytes

    def read(self) -> Tensor:
        """Return the rows [..., K]."""
        high, low = self.high.read(), self.low.read()
        rows = high.new_empty(*self.is_high.shape, self.high.K)
        rows[self.is_high], rows[~self.is_high] = high, low
        return rows


@dataclass(frozen=True)
class StoredByAge:
    """Rows [B, S, ..., K] as `stairs`, oldest first."""

    format: Format
    stairs: tuple[StoredRows, ...]

    @property
    def nbytes(self) -> int:
        return sum(stair.nbytes for stair in self.stairs)

    def read(self) -> Tensor:
        """Return the rows [B, S, ..., K]."""
        return torch.cat([stair.read() for stair in self.stairs], 1)


Stored = StoredRows | StoredByImportance | StoredByAge


def in_few_bits(first: Tensor) -> bool:
    """Return whether a tensor that is initially `first` gets a row [B, 0, ..., K] for each token."""
    return first.is_floating_point() and first.shape[1] == 0 and first.shape[-1] > 1


def start(state: Any, fmt: Format) -> Any:
    """Return the state before the first token, with rows of tokens in the format."""
    if isinstance(state, dict):
        return {name: start(value, fmt) for name, value in state.items()}
    if fmt == Format() or not isinstance(state, Tensor) or not in_few_bits(state):
        return state
    return _stored(state, fmt, lambda: state[..., 0])


def store(state: Any, before: Any, importance: Importance | None = None) -> Any:
    """Return the state with its tensors in the formats of the state `before`."""
    return _in_formats(state, before, lambda: importance(state))  # type: ignore[misc]


def _in_formats(value: Any, held: Any, importance: Callable[[], Tensor]) -> Any:
    """Not a self-referencing closure, since such a cycle would keep the state alive until garbage collection."""
    if isinstance(value, dict) and isinstance(held, dict):
        return {name: _in_formats(part, held.get(name), importance) for name, part in value.items()}
    return _stored(value, held.format, importance) if isinstance(held, Stored) else value


def read(state: Any) -> Any:
    """Return the tensors of a stored state, rounded."""
    if isinstance(state, dict):
        return {name: read(value) for name, value in state.items()}
    return state.read() if isinstance(state, Stored) else state


def _stored(rows: Tensor, fmt: Format, importance: Callable[[], Tensor]) -> Stored:
    high, *low = BITS[fmt.weights]
    if not low:
        return in_bits(rows, high, fmt)
    if len(low) == len(AGES):
        stairs = zip(rows.split(_stairs(rows.shape[1]), 1), reversed((high, *low)), strict=True)
        return StoredByAge(fmt, tuple(in_bits(stair, bits, fmt) for stair, bits in stairs))
    is_high = important(importance())
    return StoredByImportance(
        fmt, is_high, in_bits(rows[is_high], high, fmt), in_bits(rows[~is_high], low[0], fmt)
    )


def in_bits(rows: Tensor, bits: int, fmt: Format = Format()) -> StoredRows:
    """Store rows [..., K] in 16, 8, 4 or 2 bits; `fmt` is the requesting format."""
    K, dtype = rows.shape[-1], rows.dtype
    nothing = rows.new_empty(0)
    if bits == 16:
        return StoredRows(fmt, bits, rows.bfloat16(), nothing, nothing, K, dtype)
    if bits == 8:
        return StoredRows(fmt, bits, *quantize_rows(rows), nothing, K, dtype)
    rows = whole(rows, 8 // bits)
    codes, scale, offset = quantize_groups(rows, rows.shape[-1], bits)
    if bits == 2:
        first, second = codes.chunk(2, -1)
        codes = first | second << 2
    return StoredRows(fmt, bits, pack_pairs(codes, codes.shape[-1]), scale, offset, K, dtype)


def important(importance: Tensor, share: float = SHARE, most: float = MOST) -> Tensor:
    """importance [B, S, ...] >= 0 -> True at the fewest of S that hold `share` of it, at most `most` of S."""
    S = importance.shape[1]
    found, order = importance.sort(dim=1, descending=True, stable=True)
    of_larger = found.cumsum(1) - found
    needed = (of_larger < share * found.sum(1, keepdim=True)) | (share >= 1)
    needed[:, _num_high(S, most) :] = False
    return torch.zeros_like(needed).scatter(1, order, needed)


def _stairs(num_tokens: int) -> list[int]:
    """Number of tokens on each stair, the lowest first."""
    ends = (0, *(min(age, num_tokens) for age in AGES), num_tokens)
    return [younger - older for older, younger in pairwise(ends)][::-1]


def _num_high(num_tokens: int, most: float) -> int:
    return -int(-most * num_tokens // 1)


def stored_bytes(num_tokens: int, each: int, K: int, fmt: Format) -> int:
    """Return the bytes of `each` rows of K values per token; for formats by importance, an upper bound."""
    high, *low = BITS[fmt.weights]
    if not low:
        return num_tokens * each * _row_bytes(K, high)
    if len(low) == len(AGES):
        counted = zip(_stairs(num_tokens), reversed((high, *low)), strict=True)
        return each * sum(count * _row_bytes(K, bits) for count, bits in counted)
    num_high = _num_high(num_tokens, MOST)
    of_token = [num_high * _row_bytes(K, high), (num_tokens - num_high) * _row_bytes(K, low[0]), num_tokens]
    return each * sum(of_token)  # including a byte per row for its kind


def _row_bytes(K: int, bits: int) -> int:
    if bits == 16:
        return 2 * K
    return K + 4 if bits == 8 else -(-K * bits // 8) + 4
