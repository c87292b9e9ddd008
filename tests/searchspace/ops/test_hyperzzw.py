"""HyperZZW multiplies by kernels of places, the same for every image of a batch."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, assert_equal, build, output

DEFINING_TERM = ("self.whole(self.places(x, tokens.sides)) * x", "0 * x")
GRID = Tokens(grid=(4, 5))


def mixer():
    return build("mixer", "hyperzzw", causal=False, rank=16, kernel_size=3)


def without_local_branch():
    module = mixer()
    module.local_proj.weight.data.zero_()
    module.out_proj.weight.data = torch.eye(D, dtype=torch.float64)
    return module


def test_the_global_branch_is_the_kernel_times_the_square_of_the_features():
    module, x = without_local_branch(), activations(20)
    kernel = module.whole(module.places(x, (4, 5)))
    assert_equal(output(module, x, GRID), kernel * x.square())
    assert kernel.std(0).min() > 0  # each channel has its own value at each place


def test_an_image_of_a_batch_is_what_it_is_alone():
    module, x = mixer(), activations(20)
    assert_equal(output(module, x, GRID)[1:], output(module, x[1:], GRID))


def test_the_local_kernel_follows_the_mean_of_the_image():
    """Where the context closes a channel, nothing of the neighbours is left in it."""
    module, x = mixer(), activations(20)
    module.whole.values.data.zero_()
    x = x - x.mean(1, keepdim=True) + 1.0
    module.context_scale.data = -torch.eye(D, dtype=torch.float64)
    assert output(module, x, GRID).abs().max() < 1e-12
    module.context_scale.data.zero_()
    assert output(module, x, GRID).abs().max() > 1e-2
