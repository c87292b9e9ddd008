"""Rotary positions on a grid: scores know how many rows and how many columns two tokens are apart."""

import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.heads import rotate
from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("tokens.positions % columns", "tokens.positions // columns")
ROWS, COLUMNS = 3, 4


def turned(x: torch.Tensor) -> torch.Tensor:
    """x [B, 12, H, 8] on the grid."""
    rope = build("position", "rope_2d", causal=False, base=100, dim=8)
    tokens = Tokens(positions=torch.arange(ROWS * COLUMNS), grid=(ROWS, COLUMNS))
    return rotate(x, rope(x, tokens)[1])


def test_each_pair_of_channels_is_a_complex_number_turned_by_its_axis():
    x = torch.randn(2, ROWS * COLUMNS, 3, 8, dtype=torch.float64)
    expected = torch.view_as_complex(x.clone().unflatten(-1, (4, 2)))
    for place in range(ROWS * COLUMNS):
        row, column = divmod(place, COLUMNS)
        angles = torch.tensor([row, column, row / 10, column / 10], dtype=torch.float64)
        expected[:, place] *= torch.exp(1j * angles)
    assert_equal(turned(x), torch.view_as_real(expected).flatten(-2))


def test_scores_depend_on_the_offset_in_rows_and_columns_only():
    q, k = (torch.randn(8, dtype=torch.float64).expand(1, ROWS * COLUMNS, 1, 8) for _ in range(2))
    scores = torch.einsum("bthk,bshk->ts", turned(q), turned(k)).view(ROWS, COLUMNS, ROWS, COLUMNS)
    assert_equal(scores[0, 0, 1, 2], scores[1, 1, 2, 3])
    assert_equal(scores[2, 3, 0, 1], scores[2, 2, 0, 0])
    assert (scores[0, 0, 1, 2] - scores[0, 0, 2, 1]).abs() > 1e-3
