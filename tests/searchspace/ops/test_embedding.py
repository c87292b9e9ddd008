"""The embedding of a sequence reads its real tokens and nothing else."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("tokens.mean(x)", "x.mean(1)")


def test_padding_is_left_out_of_the_mean():
    head, x = build("head", "embedding", causal=False, pooling="mean", normalize=False), activations(6)
    valid = torch.tensor([[True] * 4 + [False] * 2] * 2)
    assert_equal(head(x, Tokens(valid=valid)), x[:, :4].mean(1))


def test_a_normalised_embedding_has_length_one_and_the_direction_of_the_other():
    of_first, unit = (
        build("head", "embedding", causal=False, pooling="first", normalize=n) for n in (False, True)
    )
    x = activations(6)
    assert_equal(of_first(x, Tokens()), x[:, 0])
    assert_equal(unit(x, Tokens()) * x[:, 0].norm(dim=-1, keepdim=True), x[:, 0])


def test_without_pooling_the_hidden_states_are_the_output():
    head, x = build("head", "embedding", causal=False, pooling="none", normalize=False), activations(6)
    assert_equal(head(x, Tokens()), x)
