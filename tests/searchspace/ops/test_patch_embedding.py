"""Patch embedding is a convolution whose stride is its size."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("patches.permute(0, 2, 3, 1, 4, 5)", "patches.permute(0, 3, 2, 1, 4, 5)")


def test_it_is_a_convolution_without_overlap():
    stem = build("stem", "patch_embedding", causal=False, image_size=8, patch_size=2, channels=3)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x, tokens = stem(images, Tokens())
    expected = F.conv2d(images, stem.proj.weight.view(-1, 3, 2, 2), stride=2)
    assert_equal(x, expected.flatten(2).transpose(1, 2))
    assert tokens.grid == (4, 4)
