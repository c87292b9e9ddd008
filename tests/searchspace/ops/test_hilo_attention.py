"""HiLo attention: full attention at one end, window attention at the other."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, attention, build, output

DEFINING_TERM = ("total / count.clamp_min(1.0)", "total")
GRID = Tokens(grid=(4, 6))


def hilo(low: int, high: int, pool: int) -> Any:
    return build("mixer", "hilo_attention", False, low_heads=low, high_heads=high, head_dim=4, pool=pool)


def renamed(module: Any, kind: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(f"{kind}_"): t for n, t in module.state_dict().items() if n.startswith(kind)}


def test_low_heads_without_pooling_are_full_attention():
    low, full, x = hilo(4, 0, 1), attention(False, num_groups=4, heads_per_group=1), activations(24)
    full.load_state_dict(renamed(low, "low"))
    assert_equal(output(low, x, GRID), output(full, x))


def test_what_high_heads_add_is_mask_unit_attention():
    both, low, x = hilo(1, 4, 4), hilo(1, 0, 4), activations(24)
    low.load_state_dict({n: t for n, t in both.state_dict().items() if n.startswith("low")})
    units = build(
        "mixer", "mask_unit_attention", False, num_groups=4, heads_per_group=1, head_dim=4, window=4
    )
    units.load_state_dict(renamed(both, "high"))
    assert_equal(output(both, x, GRID) - output(low, x, GRID), output(units, x, GRID))


def test_low_heads_see_an_image_of_means():
    """On an image that is constant in every window, pooling loses nothing."""
    coarse = activations(6)
    x = coarse.view(2, 2, 3, D).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(2, 24, D)
    low, full = hilo(2, 0, 2), attention(False, num_groups=2, heads_per_group=1)
    full.load_state_dict(renamed(low, "low"))
    y = output(low, x, GRID).view(2, 4, 6, D)[:, ::2, ::2].reshape(2, 6, D)
    assert_equal(y, output(full, coarse))
