"""Deformable convolution: what fixed points and weights must give."""

from typing import Any

import torch

from searchspace.ops.convolution.dcnv4 import sampled
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("gathered * weights.unsqueeze(-1)", "gathered * weights.softmax(-1).unsqueeze(-1)")
GRID = (3, 4)
TOKENS = Tokens(grid=GRID)


def mixer(window: int = 3) -> Any:
    return build("mixer", "dcnv4", False, num_groups=2, head_dim=4, window=window)


@torch.no_grad()
def test_points_that_stay_and_equal_weights_pool_with_zeros_outside():
    module, x = mixer(), activations(12)
    x[..., 0] = 1.0
    module.move_proj.weight.zero_()
    module.weigh_proj.weight.zero_()
    module.weigh_proj.weight[:, 0] = 1 / 9
    image = module.v_proj(x).transpose(1, 2).unflatten(2, GRID)
    pooled = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=True)
    assert_equal(output(module, x, TOKENS), module.o_proj(pooled.flatten(2).transpose(1, 2)))


@torch.no_grad()
def test_one_point_moved_by_whole_steps_is_a_shift():
    """Point 0 is the token itself; one row down and two columns left."""
    module, x = mixer(), activations(12)
    x[..., 0] = 1.0
    for proj in (module.move_proj, module.weigh_proj):
        proj.weight.zero_()
    module.move_proj.weight.view(2, 9, 2, -1)[:, 0, :, 0] = torch.tensor([1.0, -2.0], dtype=torch.float64)
    module.weigh_proj.weight.view(2, 9, -1)[:, 0, 0] = 1.0
    image = module.v_proj(x).unflatten(1, GRID)
    shifted = torch.zeros_like(image)
    shifted[:, :-1, 2:] = image[:, 1:, :-2]
    assert_equal(output(module, x, TOKENS), module.o_proj(shifted.flatten(1, 2)))


def test_a_point_between_four_tokens_reads_their_mean():
    values = torch.randn(1, 12, 1, 5, dtype=torch.float64)
    points = torch.tensor([0.5, 1.5], dtype=torch.float64).expand(1, 12, 1, 1, 2)
    assert_equal(sampled(values, points, GRID)[0, 0, 0, 0], values[0, [1, 2, 5, 6], 0].mean(0))


@torch.no_grad()
def test_weights_are_neither_bounded_nor_normalised():
    module, x = mixer(), activations(12)
    once = output(module, x, TOKENS)
    module.weigh_proj.weight.mul_(-7)
    assert_equal(output(module, x, TOKENS), -7 * once)
