"""Q-pooling keeps a quarter of the tokens, each free of the order within its cell."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = (
    "q = self.split(pool_cells(self.q_proj(n), tokens.sides))",
    "q = self.split(self.q_proj(n)[:, : n.shape[1] // 4])",
)


def test_a_quarter_of_the_tokens_goes_on_at_the_new_width():
    module = build("transition", "q_pooling", causal=False, num_heads=2, head_dim=4)
    y, tokens, _ = module(activations(24), Tokens(grid=(4, 6)), None)
    assert y.shape == (2, 6, 20)
    assert tokens.grid == (2, 3)


def test_the_order_of_tokens_within_a_cell_does_not_matter():
    """Both maxima and the sum over all keys are free of it."""
    module, x = build("transition", "q_pooling", causal=False, num_heads=2, head_dim=4), activations(24)
    swapped = x.clone()
    swapped[:, [0, 7]] = x[:, [7, 0]]  # the corners of the first 2 x 2 cell of a row of 6
    facts = Tokens(grid=(4, 6))
    assert_equal(module(swapped, facts, None)[0], module(x, facts, None)[0])
    swapped[:, [0, 2]] = x[:, [2, 0]]  # across cells it does
    assert not torch.allclose(module(swapped, facts, None)[0], module(x, facts, None)[0])
