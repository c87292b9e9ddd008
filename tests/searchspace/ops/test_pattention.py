"""Attention over parameter slots, which may be added without a change of the function."""

import pytest
import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.projection import projection

DEFINING_TERM = ("self.tau * unit(wide)", "wide.shape[-1] ** 0.5 * unit(wide)")
BOTH = pytest.mark.parametrize("scores", ["l2_gelu", "gelu_l2"])


@BOTH
def test_slots_with_keys_of_zero_change_nothing(scores: str):
    small, grown = (projection("pattention", 5, 8, slot_ratio=r, scores=scores) for r in (0.5, 2.0))
    x = torch.randn(3, 8, dtype=torch.float64)
    grown.keys.data.zero_()
    grown.keys.data[:4], grown.values.data[:, :4] = small.keys, small.values
    grown.tau.data = small.tau.data
    assert_equal(grown(x), small(x))


@BOTH
def test_the_order_of_the_slots_and_the_scale_of_x_do_not_matter(scores: str):
    module, x = projection("pattention", 5, 8, slot_ratio=1.0, scores=scores), torch.randn(3, 8).double()
    y, order = module(x), torch.randperm(8)
    module.keys.data, module.values.data = module.keys[order], module.values[:, order]
    assert_equal(module(x), y)
    if scores == "l2_gelu":
        assert_equal(module(7 * x), y)


@BOTH
def test_zero_gives_zero_and_finite_gradients(scores: str):
    module = projection("pattention", 5, 8, slot_ratio=1.0, scores=scores)
    x = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    y = module(x)
    assert not y.any()
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()
