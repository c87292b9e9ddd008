"""Attention in parts, merged, is attention on all keys at once."""

import pytest
import torch

from searchspace.primitives.merging import attend_with_sum, merge


def inputs(n: int = 11) -> tuple[torch.Tensor, ...]:
    q, k, v = (torch.randn(2, m, h, 4, dtype=torch.float64) for m, h in ((5, 6), (n, 3), (n, 3)))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), torch.rand(2, 5, n) < 0.7


@pytest.mark.parametrize("cut", [0, 1, 6, 11])
def test_two_parts_merged_are_the_whole(cut: int):
    q, k, v, seen = inputs()
    whole = attend_with_sum(q, k, v, seen)
    parts = [attend_with_sum(q, k[:, s], v[:, s], seen[:, :, s]) for s in (slice(cut), slice(cut, None))]
    merged = merge(*parts)
    torch.testing.assert_close(merged, whole, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(whole[0])
    expected = torch.autograd.grad(whole[0], (q, k, v), cotangent)
    torch.testing.assert_close(
        torch.autograd.grad(merged[0], (q, k, v), cotangent), expected, rtol=1e-9, atol=1e-12
    )


def test_merging_does_not_depend_on_the_order_or_the_grouping_of_parts():
    q, k, v, seen = inputs(12)
    a, b, c = (
        attend_with_sum(q, k[:, s], v[:, s], seen[:, :, s]) for s in (slice(4), slice(4, 8), slice(8, 12))
    )
    torch.testing.assert_close(merge(merge(a, b), c), merge(a, merge(c, b)), rtol=1e-12, atol=1e-12)


def test_large_scores_do_not_overflow():
    q, k, v, seen = inputs()
    first, second = (
        attend_with_sum(1e4 * q, k[:, s], v[:, s], seen[:, :, s]) for s in (slice(6), slice(6, None))
    )
    whole = attend_with_sum(1e4 * q, k, v, seen)[0]
    torch.testing.assert_close(merge(first, second)[0], whole, rtol=1e-9, atol=1e-9)


def test_a_query_that_sees_nothing_in_any_part_is_zero_with_finite_gradients():
    q, k, v, seen = inputs()
    seen[:, 2] = False
    y, total = merge(
        *(attend_with_sum(q, k[:, s], v[:, s], seen[:, :, s]) for s in (slice(6), slice(6, None)))
    )
    assert not y[:, 2].any()
    assert (total[:, 2] == -torch.inf).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v)))
