"""Rotary positions: scores know distances only."""

import math
from typing import Any

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.heads import rotate
from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("tokens.positions.unsqueeze(-1) *", "tokens.positions.unsqueeze(-1) ** 2 *")


def turned(
    x: torch.Tensor, first: int, dim: int = 8, kind: str = "global", share: float = 1.0, **items: Any
) -> torch.Tensor:
    positions = torch.arange(first, first + x.shape[1])
    rope = build("position", "rope", **({"base": 10000, "dim": dim} | items))
    return rotate(x, rope(x, Tokens(positions=positions))[1], kind, share)


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


def test_a_block_takes_the_base_of_the_network_or_the_local_one_or_none():
    x = torch.randn(1, 6, 3, 8, dtype=torch.float64)
    assert_equal(turned(x, 3, local_base=100), turned(x, 3))
    assert_equal(turned(x, 3, kind="local", local_base=100), turned(x, 3, base=100))
    assert_equal(turned(x[..., :4], 3, kind="local", local_base=100), turned(x, 3, base=100)[..., :4])
    assert_equal(turned(x, 3, kind="none"), x)


def test_a_share_of_the_channels_turns_as_a_head_that_has_no_others():
    x = torch.randn(1, 6, 3, 8, dtype=torch.float64)
    found = turned(x, 3, share=0.5)
    assert_equal(found[..., :4], turned(x[..., :4], 3, dim=4))
    assert_equal(found[..., 4:], x[..., 4:])
    local = turned(x, 3, kind="local", share=0.5, local_base=100)
    assert_equal(local[..., :4], turned(x[..., :4], 3, dim=4, base=100))


def test_llama3_leaves_what_turns_four_times_and_slows_what_turns_less_than_once():
    x, length = torch.randn(1, 6, 3, 32, dtype=torch.float64), 60
    found = turned(x, 3, dim=32, scaling="llama3", factor=8.0, original_len=length)
    plain, slowed = turned(x, 3, dim=32), turned(x, 3, dim=32, scaling="linear", factor=8.0)
    turns = [length * 10000 ** (-2 * i / 32) / (2 * math.pi) for i in range(16)]
    for i, number in enumerate(turns):
        pair = slice(2 * i, 2 * i + 2)
        if number > 4:
            assert_equal(found[..., pair], plain[..., pair])
        if number < 1:
            assert_equal(found[..., pair], slowed[..., pair])
    assert any(1 < number < 4 for number in turns)
    assert min(turns) < 1 < 4 < max(turns)


def test_yarn_leaves_the_fast_pairs_and_slows_the_slow_ones_by_the_factor():
    x = torch.randn(1, 6, 3, 32, dtype=torch.float64)
    scale = 0.1 * math.log(4) + 1
    found = turned(x, 3, dim=32, scaling="yarn", factor=4.0, original_len=512) / scale
    plain, slowed = turned(x, 3, dim=32), turned(x, 3, dim=32, scaling="linear", factor=4.0)
    assert_equal(found[..., :2], plain[..., :2])  # 512 / (2 pi) = 81 turns
    assert_equal(found[..., -2:], slowed[..., -2:])
    assert_equal(turned(x, 3, dim=32, scaling="yarn"), plain)  # of factor 1
