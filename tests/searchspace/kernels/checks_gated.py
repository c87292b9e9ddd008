"""The fused gate against the same formula in torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from searchspace.primitives.activations import GATES, gated_activation
from tests.searchspace.kernels.harness import Check, assert_as_accurate


def check(device: torch.device, activation: str, dtype: torch.dtype) -> None:
    def gated(u: Tensor, g: Tensor) -> tuple[Tensor]:
        return (gated_activation(u, g, activation),)

    generator = torch.Generator().manual_seed(0)
    u, g = (torch.randn(3, 701, generator=generator, dtype=torch.float64) for _ in range(2))
    assert_as_accurate(gated, gated, [3 * u, g], dtype, device)


def far(device: torch.device) -> None:
    """Values far from 0 saturate, in the gradient too."""
    for activation in GATES:
        u = torch.tensor([-1e4, -90.0, 90.0, 1e4], dtype=torch.float64)

        def gated(u: Tensor, g: Tensor, activation: str = activation) -> tuple[Tensor]:
            return (gated_activation(u, g, activation),)

        assert_as_accurate(gated, gated, [u, torch.ones_like(u)], torch.float32, device)


CHECKS = [
    Check("gated far from 0", far),
    *(
        Check(f"gated {activation} {str(dtype)[6:]}", partial(check, activation=activation, dtype=dtype))
        for activation in GATES
        for dtype in (torch.float32, torch.bfloat16)
    ),
]
