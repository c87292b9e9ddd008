"""A change of width is an affine map of each token."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("return self.proj(x), tokens", "return self.proj(x - x.mean(1, keepdim=True)), tokens")


def test_it_is_affine_and_leaves_the_tokens_as_they_are():
    change, x, y, tokens = (
        build("transition", "change_width", causal=False),
        activations(),
        activations(),
        Tokens(),
    )
    wide, after, _ = change(x, tokens)
    assert wide.shape == (2, 9, 20)
    assert after is tokens
    middle, end = change((x + y) / 2, tokens)[0], change(y, tokens)[0]
    assert_equal(middle, (wide + end) / 2)
    assert_equal(change(x.flip(1), tokens)[0], wide.flip(1))
    assert torch.equal(change(0 * x, tokens)[0][0, 0], change.proj.bias)
