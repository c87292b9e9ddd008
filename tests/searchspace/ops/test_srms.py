"""Simple RMSNorm has no weights: of a centred token it is layer normalisation."""

import torch
from torch.nn import functional as F

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("F.rms_norm(x, x.shape[-1:], eps=EPS)", "x")


def test_of_centred_tokens_it_is_layer_normalisation():
    norm, x = build("norm", "srms"), activations()
    centred = x - x.mean(-1, keepdim=True)
    assert not norm.state_dict()
    assert_equal(output(norm, centred), F.layer_norm(centred, x.shape[-1:], eps=1e-6))


def test_each_token_has_unit_mean_square():
    mean_square = output(build("norm", "srms"), activations()).square().mean(-1)
    torch.testing.assert_close(mean_square, torch.ones_like(mean_square), rtol=1e-4, atol=0)
