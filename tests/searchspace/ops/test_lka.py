"""Large kernel attention reaches as far as its two kernels together, and is a product of two linear maps of gelu(x)."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.kernel_proj(seen) * u", "self.kernel_proj(seen)")


@pytest.mark.parametrize(("window", "dilation", "reach"), [(7, 3, 23), (3, 3, 11), (3, 2, 7), (5, 2, 11)])
def test_a_token_reaches_the_footprint_of_the_kernel(window: int, dilation: int, reach: int):
    module = build("mixer", "lka", window=window, dilation=dilation)
    x = activations(30).requires_grad_()
    (gradient,) = torch.autograd.grad(output(module, x)[:, 29].sum(), x)
    assert gradient.any(-1)[0].tolist() == [t > 29 - reach for t in range(30)]


def test_an_image_is_reached_by_the_same_in_both_directions():
    module = build("mixer", "lka", causal=False, window=5, dilation=2)
    x = activations(13 * 13).requires_grad_()
    y = output(module, x, Tokens(grid=(13, 13)))
    (gradient,) = torch.autograd.grad(y[:, 6 * 13 + 6].sum(), x)
    expected = torch.zeros(13, 13, dtype=torch.bool)
    expected[1:12, 1:12] = True
    assert torch.equal(gradient.any(-1)[0].view(13, 13), expected)


def test_with_kernels_that_see_the_token_alone_it_squares_what_goes_in():
    module, x = build("mixer", "lka", window=3, dilation=3), activations()
    for conv in (module.near, module.far):
        conv.weight.data.zero_()
        conv.weight.data[:, 0] = 1.0
    module.kernel_proj.weight.data = torch.eye(12, dtype=torch.float64)
    u = torch.nn.functional.gelu(x @ module.in_proj.weight.T, approximate="tanh")
    assert_equal(output(module, x), u.square() @ module.out_proj.weight.T)
