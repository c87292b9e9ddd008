"""LayerNorm sees neither the scale nor the mean of a token."""

import torch

from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ("layer_norm(x, self.weight, self.bias, self.eps)", "x * self.weight + self.bias")


def test_scale_and_mean_of_a_token_do_not_matter():
    norm, x = build("norm", "layernorm"), activations()
    y = output(norm, x)
    torch.testing.assert_close(output(norm, 1000 * x + 7), y, rtol=1e-3, atol=1e-4)
    assert y.mean(-1).abs().max() < 1e-12
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 9, dtype=torch.float64), rtol=1e-3, atol=0)
