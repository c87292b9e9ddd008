"""A short convolution carries each channel from its neighbours."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = (
    "weight.flip(1).unsqueeze(1)",
    "weight.unsqueeze(1)",
    "searchspace/primitives/convolution.py",
)


def pure(window: int, causal: bool = True):
    """One whose projections are the identity."""
    module = build("mixer", "short_conv", causal, window=window)
    for part in (module.in_proj, module.out_proj):
        part.weight.data = torch.eye(D, dtype=torch.float64)
    return module


def test_a_tap_carries_each_token_that_many_places_on():
    module, x = pure(3), activations()
    module.conv.weight.data.zero_()
    module.conv.weight.data[:, 2] = 1.0
    assert_equal(output(module, x)[:, 2:], x[:, :-2])
    assert not output(module, x)[:, :2].any()


def test_an_image_moves_with_its_content_away_from_the_border():
    module, image = pure(3, causal=False), torch.zeros(1, 6, 6, D, dtype=torch.float64)
    image[:, 2:4, 2:4] = torch.randn(1, 2, 2, D, dtype=torch.float64)
    tokens = Tokens(grid=(6, 6))
    here = output(module, image.flatten(1, 2), tokens).unflatten(1, (6, 6))
    there = output(module, image.roll((1, -1), (1, 2)).flatten(1, 2), tokens).unflatten(1, (6, 6))
    assert_equal(there, here.roll((1, -1), (1, 2)))
