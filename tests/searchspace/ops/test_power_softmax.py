"""Power-Softmax."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("** self.power", "** 2")
ALL = torch.ones(5, 5, dtype=torch.bool)


def test_weights_of_small_whole_scores_are_known():
    """2^4, 1, 0, 1 over their sum 18."""
    weights = build("normalizer", "power_softmax", power=4, epsilon=0.0)(
        torch.tensor([[[[2.0, 1.0, 0.0, -1.0]]]]), torch.ones(1, 4, dtype=torch.bool)
    )
    assert_equal(weights.flatten(), torch.tensor([16.0, 1.0, 0.0, 1.0]) / 18)


def test_rows_sum_to_one_and_neither_sign_nor_size_of_the_scores_matters():
    power, scores = (
        build("normalizer", "power_softmax", power=6, epsilon=0.0),
        torch.randn(2, 3, 5, 5).double(),
    )
    weights = power(scores, ALL.tril())
    assert_equal(weights.sum(-1), torch.ones(2, 3, 5).double())
    assert_equal(power(-1e30 * scores, ALL.tril()), weights)
    assert not weights[..., ~ALL.tril()].any()


def test_a_row_of_zeros_is_zero_with_a_finite_gradient():
    scores = torch.zeros(1, 1, 5, 5, requires_grad=True)
    weights = build("normalizer", "power_softmax", power=2, epsilon=0.0)(scores, ALL)
    weights.sum().backward()
    assert not weights.any()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_epsilon_takes_its_share_of_every_row():
    """One key: y = 1, so its weight is 1 / (1 + eps)."""
    power = build("normalizer", "power_softmax", power=2, epsilon=1e-3)
    weight = power(torch.full((1, 1, 1, 1), 7.0).double(), ALL[:1, :1])
    assert_equal(weight, torch.full((1, 1, 1, 1), 1 / 1.001, dtype=torch.float64))
