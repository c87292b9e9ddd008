"""What every chunked kernel shares: a product of two tiles, tile sizes, and what inputs are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
Run = Callable[..., tuple[Any, ...]]
LARGEST_GRID = 65535  # programs along the second and the third axis of a launch
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@triton.jit
def dot(b_a, b_b):
    """Sums in float32. The interpreter is silently wrong on bfloat16, so there both sides are widened first."""
    if INTERPRETED:
        return tl.dot(b_a.to(tl.float32), b_b.to(tl.float32), input_precision="ieee")
    return tl.dot(b_a, b_b, input_precision="ieee")


@triton.jit
def dot_of_sums(b_a, b_b, EXACT: tl.constexpr):
    """Of two tiles that are float32 whatever the operands: EXACT keeps all their bits, else tensor cores keep most."""
    if EXACT:
        return tl.dot(b_a, b_b, input_precision="ieee")
    return tl.dot(b_a, b_b, input_precision="tf32x3")


@triton.jit
def dot_unrounded(b_a, b_b):
    """Of a float32 tile and one of operands: below float32 two products keep what rounding the first would drop."""
    if b_b.dtype == tl.float32:
        return dot(b_a, b_b)
    b_high = b_a.to(b_b.dtype)
    return dot(b_high, b_b) + dot((b_a - b_high).to(b_b.dtype), b_b)


def tile(size: int, largest: int) -> int:
    """The power of two that covers the size, at least 16 (the least a product of tiles takes)."""
    return min(largest, max(16, triton.next_power_of_2(size)))


def in_batches(function: Run, heads: int, *given: Tensor | None) -> tuple[Any, ...]:
    """`function` of tensors [B, ...], in parts where a launch cannot have as many programs as B times `heads`."""
    first = given[0]
    assert first is not None
    B, most = len(first), max(1, LARGEST_GRID // heads)
    if most >= B:
        return function(*given)
    parts = [function(*(None if t is None else t[i : i + most] for t in given)) for i in range(0, B, most)]
    return tuple(None if of[0] is None else torch.cat(of) for of in zip(*parts, strict=True))


def check_operands(name: str, *tensors: Tensor) -> None:
    """Operands of products share one dtype that tensor cores or the interpreter multiply."""
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        found = ", ".join(sorted(str(d) for d in dtypes))
        raise ValueError(
            f"{name} kernel: takes float32, float16 or bfloat16, one for all operands, got {found}"
        )
