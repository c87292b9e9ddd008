"""The language-model head reads each token alone."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("self.proj(x)", "self.proj(x.detach() * 0 + 1)")


def test_each_token_has_its_own_logits():
    head, x = build("head", "lm_head", vocab_size=7), activations(6)
    logits = head(x, Tokens())
    assert logits.shape == (2, 6, 7)
    assert_equal(logits[:, 2:3], head(x[:, 2:3], Tokens()))


def test_a_cap_bounds_the_logits_and_keeps_their_order():
    head, x = build("head", "lm_head", vocab_size=7, softcap=2.0), activations(6)
    free = head.proj(x)
    assert_equal(head(x, Tokens()), 2 * torch.tanh(free / 2))
