"""The tied head compares each token with the rows of the stem."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("F.linear(x, tokens.embedding)", "F.linear(x, tokens.embedding.detach() * 0 + 1)")


def test_a_token_that_is_a_row_of_the_stem_has_its_square_as_logit():
    stem, head = (
        build("stem", "token_embedding", vocab_size=7, max_len=64),
        build("head", "tied_head", vocab_size=7),
    )
    x, tokens = stem(torch.arange(7).unsqueeze(0), Tokens())
    assert_equal(head(x, tokens).diagonal(dim1=1, dim2=2), stem.weight.square().sum(-1).unsqueeze(0))
    assert not list(head.parameters())


def test_without_token_rows_it_says_so():
    with pytest.raises(ValueError, match="tied_head reads with the stem's rows"):
        build("head", "tied_head", vocab_size=7)(activations(), Tokens())


def test_a_cap_bounds_the_logits():
    stem = build("stem", "token_embedding", vocab_size=7, max_len=64)
    heads = (build("head", "tied_head", vocab_size=7), build("head", "tied_head", vocab_size=7, softcap=2.0))
    x, tokens = stem(torch.arange(7).unsqueeze(0), Tokens())
    free, bound = (head(x, tokens) for head in heads)
    assert_equal(bound, 2 * torch.tanh(free / 2))
