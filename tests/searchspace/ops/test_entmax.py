"""Entmax between softmax and sparsemax."""

import pytest
import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("tau = tau + over * slope.detach()", "tau = tau + 0 * over")
ALPHAS = [1.5, 2.0, "learned"]
VISIBLE = torch.ones(6, 6, dtype=torch.bool).tril()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rows_sum_to_one_and_a_shift_of_the_scores_changes_nothing(alpha):
    entmax, scores = build("normalizer", "entmax", alpha=alpha), torch.randn(2, 3, 6, 6).double()
    weights = entmax(scores, VISIBLE)
    assert_equal(weights.sum(-1), torch.ones(2, 3, 6).double())
    torch.testing.assert_close(entmax(scores + 50, VISIBLE), weights, rtol=1e-9, atol=1e-9)
    assert not weights[..., ~VISIBLE].any()


def test_of_two_keys_sparsemax_is_a_clipped_line():
    """a = (1 + s - t) / 2 between 0 and 1."""
    s = torch.linspace(-2, 2, 9).double()
    scores = torch.stack((s, torch.zeros(9).double()), -1).view(1, 1, 9, 2)
    weights = build("normalizer", "entmax", alpha=2.0)(scores, torch.ones(9, 2, dtype=torch.bool))
    assert_equal(weights[0, 0, :, 0], ((1 + s) / 2).clamp(0, 1))


def test_towards_alpha_one_it_is_softmax():
    """To first order in alpha - 1, here 5e-3."""
    entmax, scores = build("normalizer", "entmax", alpha="learned"), torch.randn(2, 1, 6, 6).double()
    with torch.no_grad():
        entmax.raw_alpha.fill_(torch.tensor(5e-3).logit())
    softmax = build("normalizer", "softmax")
    torch.testing.assert_close(entmax(scores, VISIBLE), softmax(scores, VISIBLE), rtol=0, atol=2e-2)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_is_that_of_the_weights(alpha):
    """With s = A^(2 - alpha) on the support: dz = s g - s (s . g) / sum s; finite differences for alpha itself."""
    entmax, scores = build("normalizer", "entmax", alpha=alpha), torch.randn(1, 1, 4, 4).double()
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: entmax(s, everything), scores.requires_grad_())
    weights, g = entmax(scores, everything), torch.randn(1, 1, 4, 4).double()
    value = 1.5 if alpha == "learned" else alpha
    s = torch.where(weights > 0, weights.clamp_min(1e-30) ** (2 - value), 0.0).detach()
    expected = s * g - s * (s * g).sum(-1, keepdim=True) / s.sum(-1, keepdim=True)
    (found,) = torch.autograd.grad(weights, scores, g, retain_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
