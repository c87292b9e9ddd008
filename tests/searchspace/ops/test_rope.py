"""Rotary positions: scores know distances only."""

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.heads import rotate
from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("tokens.positions.unsqueeze(-1) *", "tokens.positions.unsqueeze(-1) ** 2 *")


def turned(x: torch.Tensor, first: int, dim: int = 8) -> torch.Tensor:
    positions = torch.arange(first, first + x.shape[1])
    return rotate(x, build("position", "rope", base=10000, dim=dim)(x, Tokens(positions=positions))[1])


def test_scores_depend_on_distance_only():
    q, k = torch.randn(2, 1, 6, 3, 8, dtype=torch.float64)
    here, there = (torch.einsum("bthk,bshk->bhts", turned(q, f), turned(k, f)) for f in (0, 1000))
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_position_zero_turns_nothing_and_lengths_stay():
    x = torch.randn(1, 6, 3, 8, dtype=torch.float64)
    assert_equal(turned(x, 0)[:, 0], x[:, 0])
    assert_equal(turned(x, 5).norm(dim=-1), x.norm(dim=-1))


def test_a_narrower_head_keeps_the_first_frequencies():
    wide = torch.randn(1, 6, 3, 8, dtype=torch.float64)
    assert_equal(turned(wide[..., :4], 3), turned(wide, 3)[..., :4])
