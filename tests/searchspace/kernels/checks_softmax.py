"""The two-pass softmax against the same formula in torch: long rows, masks that are broadcast, blind rows."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from searchspace.primitives.row_statistics import masked_softmax
from tests.searchspace.kernels.harness import Check, assert_as_accurate


def check(
    device: torch.device,
    shape: tuple[int, ...],
    visible_shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Some rows see nothing, some a single key, and one holds a score far above the others."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores[..., 0, shape[-1] // 2] = 80.0
    visible = torch.rand(visible_shape, generator=generator) > 0.4
    visible[..., -1, :] = False

    def softmax(s: Tensor) -> tuple[Tensor]:
        return (masked_softmax(s, visible.to(s.device)),)

    assert_as_accurate(softmax, softmax, [scores], dtype, device)


SHAPES = {
    "of rows": ((5, 37), (5, 37)),
    "with a mask for all heads": ((2, 2, 3, 40), (2, 1, 3, 40)),
    "of long rows": ((1, 2, 2, 9001), (2, 9001)),
}
CHECKS = [
    Check(f"softmax {name} {str(dtype)[6:]}", partial(check, shape=shape, visible_shape=visible, dtype=dtype))
    for name, (shape, visible) in SHAPES.items()
    for dtype in (torch.float32, torch.bfloat16)
]
