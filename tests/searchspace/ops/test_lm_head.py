"""The language-model head reads each token alone."""

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("return self.proj(x)", "return self.proj(x.detach() * 0 + 1)")


def test_each_token_has_its_own_logits():
    head, x = build("head", "lm_head", vocab_size=7), activations(6)
    logits = head(x, Tokens())
    assert logits.shape == (2, 6, 7)
    assert_equal(logits[:, 2:3], head(x[:, 2:3], Tokens()))
