"""Combiner on rows and columns: full attention within a row, full support above."""

import pytest
import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("t.cummax(1).values[:, first:]", "t[:, first:]")


@pytest.mark.parametrize(("segment", "T"), [(16, 9), (9, 9), (5, 10)])
def test_up_to_two_rows_are_full_attention(segment: int, T: int):
    """One row above gives columns of one token each."""
    combiner, full = build("mixer", "combiner_axial", **HEADS, segment=segment), attention()
    full.load_state_dict(combiner.state_dict())
    x = activations(T)
    assert_equal(output(combiner, x), output(full, x))


@pytest.mark.parametrize("T", [14, 16])
def test_the_weights_of_a_row_sum_to_one(T: int):
    module, x = build("mixer", "combiner_axial", **HEADS, segment=4), activations(T)
    constant = torch.randn(8, dtype=torch.float64)
    module.v_proj.forward = lambda x: constant.expand(*x.shape[:2], -1)
    expected = module.o_proj(module.per_head(constant.view(1, 1, 2, 4)).flatten(2))
    assert_equal(output(module, x), expected.expand(2, T, -1))


def test_every_earlier_token_has_a_weight_and_no_later_one():
    module, x = build("mixer", "combiner_axial", **HEADS, segment=4), activations(14)
    values = module.v_proj(x).detach().requires_grad_()
    module.v_proj.forward = lambda _: values
    for i in range(14):
        (gradient,) = torch.autograd.grad(output(module, x)[:, i].sum(), values)
        assert gradient[0].any(-1).tolist() == [j <= i for j in range(14)]
