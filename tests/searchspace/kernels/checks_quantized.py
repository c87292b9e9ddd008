"""Products with 4 and 8 bit weights against the stored weights in float64, and the integer part exactly."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from searchspace.kernels import dispatch
from searchspace.primitives.integer_matmul import (
    dynamic_int8_matmul,
    int4_matmul,
    int8_matmul,
    quantize_rows,
)
from tests.searchspace.kernels.harness import Check, assert_as_accurate, pack_int4, poisoned


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def weight_only(device: torch.device, M: int, N: int, K: int, group: int, dtype: torch.dtype) -> None:
    """Groups of `group` in 4 bits; with group 0 rows in 8 bits."""
    stored, scale = pack_int4(normal(N, K), group) if group else quantize_rows(normal(N, K))

    def product(x: Tensor) -> tuple[Tensor]:
        run = int4_matmul if group else int8_matmul
        return (run(x, stored.to(x.device), scale.to(x.device)),)

    assert_as_accurate(product, product, [normal(M, K)], dtype, device, gradients=False)


def dynamic(device: torch.device, M: int, N: int, K: int) -> None:
    """The same codes as torch's, the same whole numbers, hence the same bits; a row of zeros and ties among them."""
    x = normal(M, K).float()
    x[0] = 0
    x[-1] = torch.arange(K) % 254 - 126.5  # scale 1, every value halfway between two codes
    x[-1, 0] = 127
    codes, scale = quantize_rows(normal(N, K))
    expected = dynamic_int8_matmul(x, codes, scale)
    with poisoned(), dispatch.use("triton"):
        found = dynamic_int8_matmul(x.to(device), codes.to(device), scale.to(device))
    assert (found.cpu() == expected).all()


def wide_group(device: torch.device) -> None:
    """A group that is read in several parts."""
    weight_only(device, 5, 19, 512, 256, torch.float32)


def refused(device: torch.device) -> None:
    packed, scale = pack_int4(normal(4, 96), 48)
    found = "nothing was refused"
    with dispatch.use("triton"):
        try:
            int4_matmul(torch.zeros(2, 96, device=device), packed.to(device), scale.to(device))
        except ValueError as error:
            found = str(error)
    assert "got groups of 48" in found, found


CHECKS = [
    *(
        Check(
            f"{f'int4 in groups of {group}' if group else 'int8'} for {M} tokens {str(dtype)[6:]}",
            partial(weight_only, M=M, N=77, K=128, group=group, dtype=dtype),
            "quick" if M == 5 else "slow",
        )
        for group in (0, 32, 128)
        for M in (1, 5, 70)
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        Check(
            f"dynamic int8 for {M} tokens", partial(dynamic, M=M, N=77, K=200), "quick" if M == 5 else "slow"
        )
        for M in (2, 5, 70)
    ),
    Check("int4 in groups of 256", wide_group),
    Check("int4 refuses what it cannot do", refused),
]
