"""Learned positions add a row for each place."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("x + self.weight[tokens.positions]", "x")


def test_equal_tokens_differ_by_the_rows_of_their_places():
    learned, x = build("position", "learned"), activations(3)
    y, _ = learned(x, Tokens(positions=torch.tensor([4, 0, 9])))
    assert_equal(y - x, learned.weight[[4, 0, 9]].expand(2, 3, -1))
