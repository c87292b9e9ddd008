"""Mask-unit attention is softmax attention inside each square of the grid."""

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, D, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "grid_blocks(tokens.sides, self.window, 0, x.device)",
    "grid_blocks(tokens.sides, self.window, 1, x.device)",
)


def test_each_unit_is_softmax_attention_on_its_own():
    """Two by two units, cut out and put back."""
    local, full = build("mixer", "mask_unit_attention", False, **HEADS, window=4), attention(False)
    full.load_state_dict(local.state_dict())
    x = activations(64)
    units = x.view(2, 2, 4, 2, 4, D).transpose(2, 3).reshape(8, 16, D)
    expected = output(full, units).view(2, 2, 2, 4, 4, D).transpose(2, 3).reshape(2, 64, D)
    assert_equal(output(local, x, Tokens(grid=(8, 8))), expected)


def test_a_unit_as_large_as_the_grid_is_full_attention():
    local, full = build("mixer", "mask_unit_attention", False, **HEADS, window=8), attention(False)
    full.load_state_dict(local.state_dict())
    x = activations(35)
    assert_equal(output(local, x, Tokens(grid=(5, 7))), output(full, x))


def test_a_unit_over_the_edge_of_the_grid_holds_fewer_tokens():
    x = activations(15).requires_grad_()
    y = output(build("mixer", "mask_unit_attention", False, **HEADS, window=4), x, Tokens(grid=(3, 5)))
    (gradient,) = torch.autograd.grad(y[:, 4].sum(), x)
    assert gradient[0].any(-1).nonzero().flatten().tolist() == [4, 9, 14]
