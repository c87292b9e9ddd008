"""The classifier reads the mean token."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("tokens.mean(x)", "x.mean(1)")


def test_the_order_of_tokens_does_not_matter_and_padding_is_left_out():
    head, x = build("head", "classifier", causal=False, num_classes=3), activations(6)
    assert_equal(head(x.flip(1), Tokens()), head(x, Tokens()))
    valid = torch.tensor([[True] * 4 + [False] * 2] * 2)
    assert_equal(head(x, Tokens(valid=valid)), head(x[:, :4], Tokens()))


def test_without_pooling_each_token_has_its_own_logits_and_a_hidden_layer_comes_before_them():
    x = activations(6)
    head = build("head", "classifier", causal=False, num_classes=3, pooling="none", hidden="tanh", bias=True)
    hidden = torch.tanh(x @ head.hidden_proj.weight.T + head.hidden_proj.bias)
    assert_equal(head(x, Tokens()), hidden @ head.proj.weight.T + head.proj.bias)
    first = build("head", "classifier", causal=False, num_classes=3, pooling="first", hidden="relu")
    expected = torch.relu(x[:, 0] @ first.hidden_proj.weight.T + first.hidden_proj.bias)
    assert_equal(first(x, Tokens()), expected @ first.proj.weight.T)
