"""Functions shared by the kernels: products of tiles, tile sizes, launches in parts and checks of operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
Run = Callable[..., tuple[Any, ...]]
LARGEST_GRID = 65535  # largest number of programs along the second and third axis of a launch
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@triton.jit
def dot(b_a, b_b):
    """A matrix product summed in float32. The interpreter is silently wrong on bfloat16, so it gets float32."""
    if INTERPRETED:
        return tl.dot(b_a.to(tl.float32), b_b.to(tl.float32), input_precision="ieee")
    return tl.dot(b_a, b_b, input_precision="ieee")


@triton.jit
def dot_of_sums(b_a, b_b, EXACT: tl.constexpr):
    """A product of two float32 tiles: exact in float32 if EXACT, else three TF32 products on tensor cores."""
    if EXACT:
        return tl.dot(b_a, b_b, input_precision="ieee")
    return tl.dot(b_a, b_b, input_precision="tf32x3")


@triton.jit
def dot_unrounded(b_a, b_b):
    """A product of a float32 tile and a tile of operands. If these have 16 bits, a second product with the rounding
    error of b_a compensates for rounding it."""
    if b_b.dtype == tl.float32:
        return dot(b_a, b_b)
    b_high = b_a.to(b_b.dtype)
    return dot(b_high, b_b) + dot((b_a - b_high).to(b_b.dtype), b_b)


def tile(size: int, largest: int) -> int:
    """The smallest power of two of at least `size` and 16 (the minimum of a tile product), at most `largest`."""
    return min(largest, max(16, triton.next_power_of_2(size)))


def in_batches(function: Run, heads: int, *given: Tensor | None) -> tuple[Any, ...]:
    """`function` of tensors [B, ...], in parts of the batch if B * `heads` exceeds LARGEST_GRID; results [B, ...]."""
    first = given[0]
    assert first is not None
    B, most = len(first), max(1, LARGEST_GRID // heads)
    if most >= B:
        return function(*given)
    parts = [function(*(None if t is None else t[i : i + most] for t in given)) for i in range(0, B, most)]
    return tuple(None if of[0] is None else torch.cat(of) for of in zip(*parts, strict=True))


def check_operands(name: str, *tensors: Tensor) -> None:
    """Raises ValueError unless the tensors share one dtype of DTYPES."""
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        found = ", ".join(sorted(str(d) for d in dtypes))
        raise ValueError(
            f"{name} kernel: takes float32, float16 or bfloat16, one for all operands, got {found}"
        )
