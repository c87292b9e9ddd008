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
