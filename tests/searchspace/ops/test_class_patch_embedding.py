"""Patch embedding with a class token is a convolution behind one token that no image changes."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("patches.permute(0, 2, 3, 1, 4, 5)", "patches.permute(0, 3, 2, 1, 4, 5)")


def test_it_is_a_convolution_without_overlap_behind_the_class_token():
    stem = build("stem", "class_patch_embedding", causal=False, image_size=8, patch_size=2, channels=3)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x, tokens = stem(images, Tokens())
    expected = F.conv2d(images, stem.proj.weight.view(-1, 3, 2, 2), stem.proj.bias, stride=2)
    assert_equal(x[:, 1:], expected.flatten(2).transpose(1, 2))
    assert_equal(x[:, 0], stem.class_token.expand(2, -1))
    assert tokens.positions is not None
    assert len(tokens.positions) == 17


def test_extra_tokens_stand_between_the_class_token_and_the_patches():
    items = {"image_size": 8, "patch_size": 4, "channels": 1}
    stem = build("stem", "class_patch_embedding", causal=False, extra_tokens=2, **items)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    x, tokens = stem(images, Tokens())
    assert_equal(x[:, 1:3], stem.extra_tokens.expand(2, -1, -1))
    assert_equal(
        x[:, 3:], F.conv2d(images, stem.proj.weight.view(-1, 1, 4, 4), stem.proj.bias, stride=4).flatten(2).mT
    )
    assert tokens.positions is not None
    assert len(tokens.positions) == x.shape[1] == 7
