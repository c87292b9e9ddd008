"""Pooling takes the token away from the mean of its neighbours."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = ("return mean - x,", "return mean,")


def test_a_constant_image_becomes_exactly_zero():
    x = torch.full((2, 20, D), 0.7, dtype=torch.float64)
    assert (
        output(build("mixer", "pooling", causal=False, window=3), x, Tokens(grid=(4, 5))).abs().max() < 1e-15
    )


def test_a_constant_sequence_becomes_zero():
    x = torch.full((2, 20, D), 0.7, dtype=torch.float64)
    assert output(build("mixer", "pooling", window=5), x).abs().max() < 1e-15


@pytest.mark.parametrize("window", [3, 5])
def test_a_token_reaches_its_window_of_the_image_and_no_further(window: int):
    x = activations(63).requires_grad_()
    y = output(build("mixer", "pooling", causal=False, window=window), x, Tokens(grid=(7, 9)))
    (gradient,) = torch.autograd.grad(y[:, 3 * 9 + 4].sum(), x)
    reached = gradient.any(-1)[0].view(7, 9)
    half, expected = window // 2, torch.zeros(7, 9, dtype=torch.bool)
    expected[3 - half : 4 + half, 4 - half : 5 + half] = True
    assert torch.equal(reached, expected)


def test_the_last_tokens_are_averaged():
    x = activations(9)
    y = output(build("mixer", "pooling", window=3), x)
    assert_equal(y[:, 8], x[:, 6:9].mean(1) - x[:, 8])
    assert_equal(y[:, 1], x[:, :2].mean(1) - x[:, 1])


def test_the_first_token_has_exactly_nothing_to_mix():
    pooling = build("mixer", "pooling", window=3)
    x = activations().float()
    assert not output(pooling, x)[:, 0].any()
