"""ScaleNorm puts all tokens on one sphere."""

import math

import torch

from tests.searchspace.ops.identities import D, activations, build, output

DEFINING_TERM = ("self.length_ratio * F.rms_norm(x, x.shape[-1:], eps=EPS)", "self.length_ratio * x")


def test_every_token_has_the_learned_length():
    norm = build("norm", "scalenorm")
    norm.length_ratio.data.fill_(3.0)
    length = output(norm, activations()).norm(dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, 3 * math.sqrt(D)), rtol=1e-4, atol=0)


def test_directions_stay():
    x = activations()
    similar = torch.cosine_similarity(output(build("norm", "scalenorm"), x), x, dim=-1)
    torch.testing.assert_close(similar, torch.ones_like(similar))
