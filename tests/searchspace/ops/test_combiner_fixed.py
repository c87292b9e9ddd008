"""Combiner with fixed segments: full attention at both ends of the segment length, full support between."""

import pytest
import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("y, _ = merge(near, attend_with_sum(q, kappa, value, allowed))", "y = near[0]")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segment", [1, 9, 16])
def test_one_token_or_all_tokens_in_a_segment_is_full_attention(causal: bool, segment: int):
    combiner, full = build("mixer", "combiner_fixed", causal, **HEADS, segment=segment), attention(causal)
    full.load_state_dict(combiner.state_dict())
    x = activations(9)
    assert_equal(output(combiner, x), output(full, x))


@pytest.mark.parametrize("causal", [True, False])
def test_the_weights_of_a_row_sum_to_one(causal: bool):
    """Constant values come out unchanged."""
    module, x = build("mixer", "combiner_fixed", causal, **HEADS, segment=4), activations(14)
    constant = torch.randn(8, dtype=torch.float64)
    module.v_proj.forward = lambda x: constant.expand(*x.shape[:2], -1)
    expected = module.o_proj(module.per_head(constant.view(1, 1, 2, 4)).flatten(2))
    assert_equal(output(module, x), expected.expand(2, 14, -1))


def test_every_earlier_token_has_a_weight_and_no_later_one():
    module, x = build("mixer", "combiner_fixed", **HEADS, segment=4), activations(14)
    values = module.v_proj(x).detach().requires_grad_()
    module.v_proj.forward = lambda _: values
    for i in range(14):
        (gradient,) = torch.autograd.grad(output(module, x)[:, i].sum(), values)
        assert gradient[0].any(-1).tolist() == [j <= i for j in range(14)]
