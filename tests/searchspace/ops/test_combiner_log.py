"""Combiner with spans of powers of two: exact cover, unit rows."""

import pytest
import torch

from searchspace.ops.latent.combiner_log import levels
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("exists[:, mine] & (asking // c % 2 == 1)", "exists[:, mine] & (asking // c % 2 == 0)")


def test_the_spans_of_a_token_cover_everything_before_it_once():
    for i in range(200):
        cover = [i]
        for c, first, count in levels(i, i + 1):
            assert count == 1
            cover += range(first * c, (first + 1) * c)
        assert sorted(cover) == list(range(i + 1))


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 37), (5, 9), (16, 33), (31, 64)])
def test_the_spans_of_a_piece_are_those_of_its_tokens(start: int, end: int):
    each = {(c, first) for i in range(start, end) for c, first, _ in levels(i, i + 1)}
    assert {(c, first + 2 * n) for c, first, count in levels(start, end) for n in range(count)} == each


def test_the_weights_of_a_row_sum_to_one():
    module, x = build("mixer", "combiner_log", **HEADS), activations(14)
    constant = torch.randn(8, dtype=torch.float64)
    module.v_proj.forward = lambda x: constant.expand(*x.shape[:2], -1)
    expected = module.o_proj(module.per_head(constant.view(1, 1, 2, 4)).flatten(2))
    assert_equal(output(module, x), expected.expand(2, 14, -1))


def test_every_earlier_token_has_a_weight_and_no_later_one():
    module, x = build("mixer", "combiner_log", **HEADS), activations(14)
    values = module.v_proj(x).detach().requires_grad_()
    module.v_proj.forward = lambda _: values
    for i in range(14):
        (gradient,) = torch.autograd.grad(output(module, x)[:, i].sum(), values)
        assert gradient[0].any(-1).tolist() == [j <= i for j in range(14)]


def test_two_tokens_are_full_attention():
    combiner, full, x = build("mixer", "combiner_log", **HEADS), attention(), activations(2)
    full.load_state_dict(combiner.state_dict())
    assert_equal(output(combiner, x), output(full, x))
