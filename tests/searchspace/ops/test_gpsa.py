"""Gated positional self-attention."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("dx.square() + dy.square()", "dx.square()")
GRID = Tokens(grid=(5, 5))


@torch.no_grad()
def test_all_place_and_no_content_is_a_convolution_with_a_tap_for_each_head():
    """Nine heads start around the nine offsets of a 3 x 3 kernel; sharpened, each reads one neighbour."""
    module, x = build("mixer", "gpsa", False, num_groups=9, heads_per_group=1, head_dim=4), activations(25)
    module.place_gate.fill_(50.0)
    module.place_weight.mul_(50.0)
    values = module.v_proj(x).unflatten(1, (5, 5)).unflatten(-1, (9, 4))
    taps = [
        values[:, 1 + dy : 4 + dy, 1 + dx : 4 + dx, 3 * (dy + 1) + dx + 1]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    inner = output(module, x, GRID).unflatten(1, (5, 5))[:, 1:4, 1:4]
    assert_equal(inner, module.o_proj(torch.stack(taps, -2).flatten(-2)))


def test_four_heads_start_half_a_token_off_the_centre():
    module = build("mixer", "gpsa", False, num_groups=4, heads_per_group=1, head_dim=4)
    offsets = (module.place_weight[:, :2] / 2).tolist()
    assert offsets == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]


@torch.no_grad()
def test_without_place_it_is_softmax_attention():
    module, plain, x = build("mixer", "gpsa", False, **HEADS), attention(False), activations(25)
    module.place_gate.fill_(-50.0)
    plain.load_state_dict({n: w for n, w in module.state_dict().items() if "place" not in n})
    assert_equal(output(module, x, GRID), output(plain, x))
