"""RMSNorm sees directions only."""

import torch

from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ("rms_norm(x, self.weight, self.eps)", "x * self.weight")


def test_the_scale_of_a_token_does_not_matter_and_each_has_unit_mean_square():
    norm, x = build("norm", "rmsnorm"), activations()
    y = output(norm, x)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 9, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(output(norm, 1000 * x), y, rtol=1e-4, atol=0)


def test_the_mean_is_kept():
    """What tells it from LayerNorm: a constant token stays, up to its scale."""
    y = output(build("norm", "rmsnorm"), torch.full((1, 1, 12), 3.0, dtype=torch.float64))
    torch.testing.assert_close(y, torch.ones_like(y), rtol=1e-5, atol=0)
