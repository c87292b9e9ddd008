"""Token embedding looks rows up and counts positions."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import build

DEFINING_TERM = ("F.embedding(inputs, self.weight)", "F.embedding(inputs * 0, self.weight)")


def test_equal_tokens_have_equal_rows_and_positions_go_on():
    stem = build("stem", "token_embedding", vocab_size=5, max_len=8)
    x, tokens = stem(torch.tensor([[3, 1, 3]]), Tokens(), 4)
    assert torch.equal(x[0], stem.weight[[3, 1, 3]])
    assert tokens.positions.tolist() == [4, 5, 6]
