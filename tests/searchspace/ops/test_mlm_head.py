"""The head of a masked language model reads each token alone, whatever its length."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("F.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.eps)", "hidden")


def test_each_token_has_its_own_logits():
    head, x = build("head", "mlm_head", vocab_size=7), activations(6)
    logits = head(x, Tokens())
    assert logits.shape == (2, 6, 7)
    assert_equal(logits[:, 2:3], head(x[:, 2:3], Tokens()))


def test_the_hidden_layer_is_normalised():
    """gelu(s h) = s relu(h) for large s, and the norm takes s out again."""
    head, x = build("head", "mlm_head", vocab_size=7), activations(6)
    torch.testing.assert_close(head(1e6 * x, Tokens()), head(1e9 * x, Tokens()), rtol=1e-6, atol=1e-6)
