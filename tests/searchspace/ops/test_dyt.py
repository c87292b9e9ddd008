"""Dynamic tanh is linear near 0 and flat far away."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.tanh(self.slope * x)", "self.slope * x")


def test_small_activations_pass_with_the_slope_and_large_ones_become_signs():
    norm, x = build("norm", "dyt"), activations()
    torch.testing.assert_close(output(norm, 1e-6 * x), 0.5e-6 * x)
    assert_equal(output(norm, 1e6 * x), x.sign())


def test_no_channel_depends_on_another():
    norm, x = build("norm", "dyt"), activations().requires_grad_()
    (gradient,) = torch.autograd.grad(output(norm, x)[..., 3].sum(), x)
    assert not gradient[..., [i for i in range(12) if i != 3]].any()
