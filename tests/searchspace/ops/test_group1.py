"""Group norm with one group normalises a whole image."""

import torch
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("F.layer_norm(x, x.shape[-2:], eps=EPS)", "F.layer_norm(x, x.shape[-1:], eps=EPS)")


def test_it_is_torchs_group_norm_of_the_channels():
    norm, x = build("norm", "group1", causal=False), activations()
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    expected = F.group_norm(x.transpose(1, 2), 1, norm.weight, norm.bias).transpose(1, 2)
    assert_equal(output(norm, x), expected)


def test_padding_leaves_the_rest_as_it_is_alone():
    norm, x = build("norm", "group1", causal=False), activations(9)
    valid = (torch.arange(9) < 6).expand(2, 9)
    assert_equal(output(norm, x, Tokens(valid=valid))[:, :6], output(norm, x[:, :6]))
