"""Compressed RMSNorm is layer normalisation of one channel more."""

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("+ wide.sum(-1, keepdim=True).square()", "")


def test_it_is_layer_normalisation_with_the_channel_that_makes_the_mean_zero():
    norm, x = build("norm", "crms"), activations()
    whole = torch.cat((x, -x.sum(-1, keepdim=True)), -1)
    assert_equal(output(norm, x), F.layer_norm(whole, whole.shape[-1:])[..., :-1])
