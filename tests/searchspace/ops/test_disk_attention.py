"""Disk attention sees the tokens of a circle, and all of them where the circle covers the image."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, attention, build, output

DEFINING_TERM = ("columns.square() < self.radius**2", "columns.square() <= self.radius**2")
HEADS = {"num_groups": 1, "heads_per_group": 2, "head_dim": 4}


@pytest.mark.parametrize(("window", "count"), [(2, 1), (4, 9), (8, 45), (16, 193)])
def test_an_inner_token_sees_the_disk_of_its_radius(window: int, count: int):
    """45 lattice points with x^2 + y^2 < 16 and 193 below 64, counted by hand over one quadrant times four."""
    x, side = activations(17 * 17, B=1).requires_grad_(), 17
    y = output(build("mixer", "disk_attention", False, **HEADS, window=window), x, Tokens(grid=(side, side)))
    (gradient,) = torch.autograd.grad(y[:, 8 * side + 8].sum(), x)
    reached = gradient[0].any(-1).view(side, side).nonzero() - 8
    assert len(reached) == count
    assert (reached.square().sum(1) < (window // 2) ** 2).all()


def test_a_disk_over_the_whole_grid_is_full_attention():
    disk, full = build("mixer", "disk_attention", False, **HEADS, window=20), attention(False, **HEADS)
    full.load_state_dict(disk.state_dict())
    x = activations(48)
    assert_equal(output(disk, x, Tokens(grid=(6, 8))), output(full, x))
