"""The Triton short convolution against torch's: values, gradients, what is kept, tokens one by one."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from searchspace.kernels import dispatch
from searchspace.primitives.convolution import causal_convolution
from tests.searchspace.kernels.harness import Check, assert_as_accurate, refused


def inputs(T: int, C: int, taps: int, dilation: int) -> list[Tensor]:
    """x, weight and earlier tokens, in float64."""
    generator = torch.Generator().manual_seed(T)
    shapes = ((2, T, C), (C, taps), (2, (taps - 1) * dilation, C))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def check(
    device: torch.device, sizes: tuple[int, int, int, int], silu: bool, dtype: torch.dtype, earlier: bool
) -> None:
    def formula(x: Tensor, weight: Tensor, earlier: Tensor | None = None) -> tuple[Tensor, ...]:
        y, kept = causal_convolution(x, weight, earlier, sizes[3], silu)
        return (y,) if kept is None else (y, kept)

    given = inputs(*sizes)
    assert_as_accurate(formula, formula, given if earlier else given[:2], dtype, device)


def token_by_token(device: torch.device) -> None:
    x, weight, first = (t.float().to(device) for t in inputs(9, 5, 3, 2))
    kept: Tensor | None = first
    with dispatch.use("triton"):
        whole, last = causal_convolution(x, weight, first, 2, True)
        outputs = []
        for t in range(9):
            y, kept = causal_convolution(x[:, t : t + 1], weight, kept, 2, True)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kept, last, rtol=0, atol=0)


def refuses(device: torch.device) -> None:
    x, weight, kept = (t.float().to(device) for t in inputs(3, 2, 3, 200))
    with dispatch.use("triton"), refused("at most, got 400"):
        causal_convolution(x, weight, kept, 200)


SHAPES = {  # T, C, taps, dilation
    "ragged": (37, 70, 4, 1),
    "dilated": (19, 5, 3, 3),
    "shorter than its reach": (2, 5, 4, 2),
    "one tap": (5, 3, 1, 1),
    "large": (1000, 1024, 4, 1),
}
QUICK = (("dilated", torch.float32), ("shorter than its reach", torch.bfloat16), ("one tap", torch.float32))

CHECKS = [
    *(
        Check(
            f"short convolution {name} {str(dtype)[6:]}{' silu' if silu else ''}{' in a stream' if earlier else ''}",
            partial(check, sizes=sizes, silu=silu, dtype=dtype, earlier=earlier),
            "gpu" if name == "large" else "quick" if (name, dtype) in QUICK and silu and earlier else "slow",
        )
        for name, sizes in SHAPES.items()
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        for silu in (False, True)
        for earlier in (False, True)
    ),
    Check("short convolution token by token", token_by_token),
    Check("short convolution refuses a long reach", refuses),
]
