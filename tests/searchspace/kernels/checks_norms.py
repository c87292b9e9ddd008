"""The fused norms against the same formula in torch: ragged rows and widths, with and without a residual."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from searchspace.primitives.row_norms import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from tests.searchspace.kernels.harness import Check, assert_as_accurate

EPS = 1e-5


def alone(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, is_centred: bool) -> tuple[Tensor, ...]:
    y = layer_norm(x, weight, bias, EPS) if is_centred else rms_norm(x, weight, EPS)
    return y, residual * bias  # inputs that a norm does not take have a gradient nonetheless


def behind(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, is_centred: bool) -> tuple[Tensor, ...]:
    if is_centred:
        return add_layer_norm(x, residual, weight, bias, EPS)
    y, total = add_rms_norm(x, residual, weight, EPS)
    return y, total * bias


def check(
    device: torch.device, is_added: bool, is_centred: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(shape[-1])
    sizes = shape, shape, shape[-1:], shape[-1:]
    given = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    given[0] = given[0] + 0.5
    formula = partial(behind if is_added else alone, is_centred=is_centred)
    assert_as_accurate(formula, formula, given, dtype, device)


def only_the_norm_is_used(device: torch.device) -> None:
    """The sum has no gradient of its own then."""

    def first(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (add_rms_norm(x, residual, weight, EPS)[0],)

    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7, 24), (7, 24), (24,))
    ]
    assert_as_accurate(first, first, given, torch.float32, device)


SHAPES = {"narrow": (3, 41, 5), "ragged": (2, 9, 300), "wide": (3, 5000)}
CHECKS = [
    Check("norm behind a residual that nothing else reads", only_the_norm_is_used),
    *(
        Check(
            f"{'layer' if is_centred else 'rms'} norm {'behind a residual ' * is_added}{name} {str(dtype)[6:]}",
            partial(check, is_added=is_added, is_centred=is_centred, shape=shape, dtype=dtype),
            "quick" if dtype == torch.float32 else "slow",
        )
        for is_centred in (False, True)
        for is_added in (False, True)
        for name, shape in SHAPES.items()
        for dtype in (torch.float32, torch.bfloat16)
    ),
]
