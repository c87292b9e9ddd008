"""Neighborhood attention: windows of constant size, moved inwards at the borders."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, D, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "start = torch.minimum(a - self.window // 2, m - self.window).clamp_min(0)",
    "start = (a - self.window // 2).clamp_min(0)",
)


def neighborhood(causal: bool = False, **items):
    return build("mixer", "neighborhood_attention", causal, **(HEADS | {"dilation": 1} | items))


def reached(module, T: int, token: int, grid: tuple[int, int] | None = None) -> list[int]:
    x = activations(T, B=1).requires_grad_()
    (gradient,) = torch.autograd.grad(output(module, x, Tokens(grid=grid))[:, token].sum(), x)
    return gradient[0].any(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("token", range(36))
def test_every_query_of_a_grid_has_the_same_number_of_keys(token: int):
    assert len(reached(neighborhood(window=3), 36, token, (4, 9))) == 9
    assert len(reached(neighborhood(window=5), 36, token, (4, 9))) == 20  # the 4 rows are fewer than 5


def test_a_window_at_the_border_is_moved():
    assert reached(neighborhood(window=3), 9, 0, (1, 9)) == [0, 1, 2]
    assert reached(neighborhood(window=3), 9, 8, (1, 9)) == [6, 7, 8]
    assert reached(neighborhood(window=3), 9, 4, (1, 9)) == [3, 4, 5]


def test_dilation_keeps_to_tokens_of_the_same_remainder():
    module = neighborhood(window=3, dilation=2)
    assert reached(module, 9, 0, (1, 9)) == [0, 2, 4]
    assert reached(module, 9, 7, (1, 9)) == [3, 5, 7]
    assert reached(neighborhood(True, window=3, dilation=2), 9, 7) == [3, 5, 7]
    assert reached(neighborhood(True, window=3, dilation=2), 9, 1) == [1]


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_as_long_as_every_axis_is_full_attention(causal: bool):
    near, full, x = neighborhood(causal, window=9), attention(causal), activations(36 if not causal else 9)
    full.load_state_dict(near.state_dict())
    assert_equal(output(near, x, Tokens(grid=None if causal else (4, 9))), output(full, x))


def test_a_causal_window_is_the_sliding_window_of_softmax_attention():
    near, sliding, x = neighborhood(True, window=5), attention(window=5), activations(17)
    sliding.load_state_dict(near.state_dict())
    assert_equal(output(near, x), output(sliding, x))


def test_a_window_of_one_gives_the_values():
    module, x = neighborhood(window=1), activations(36)
    values = module.per_head(module.v_proj(x).view(2, 36, 2, 4))
    assert_equal(output(module, x, Tokens(grid=(4, 9))), module.merge_heads(values))
    assert output(module, x, Tokens(grid=(4, 9))).shape == (2, 36, D)
