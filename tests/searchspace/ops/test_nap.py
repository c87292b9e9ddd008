"""Standardised scores as weights."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("outside=EPS", "inside=EPS")
VISIBLE = torch.ones(6, 6, dtype=torch.bool).tril()


def test_rows_sum_to_zero_and_have_nearly_unit_length():
    """sum z^2 / n = sigma^2 / (sigma + eps)^2."""
    scores = 1e3 * torch.randn(2, 3, 6, 6).double()
    weights = build("normalizer", "nap")(scores, VISIBLE)
    assert_equal(weights.sum(-1), torch.zeros(2, 3, 6).double())
    sigma = scores[..., 5, :].std(-1, correction=0)
    assert_equal(weights[..., 5, :].square().sum(-1), (sigma / (sigma + 1e-3)) ** 2)


def test_a_query_that_sees_one_key_gives_it_the_offset():
    nap = build("normalizer", "nap")
    scores = torch.randn(1, 1, 6, 6).double().requires_grad_()
    weights = nap(scores, VISIBLE)
    assert not weights[0, 0, 0].any()
    with torch.no_grad():
        nap.offset.fill_(0.5)
    assert nap(scores, VISIBLE)[0, 0, 0, 0] == 0.5
    (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert gradient.isfinite().all()


def test_the_output_is_a_linear_attention():
    """With S = q k^T, row i is (q KV - mu sum v) / (sigma + eps), mu and sigma from the sums of k and k k^T."""
    q, k, v = torch.randn(3, 6, 4).double()
    weights = build("normalizer", "nap")((q @ k.T).view(1, 1, 6, 6), torch.ones(6, 6, dtype=torch.bool))
    mean, moment = k.mean(0), k.T @ k / 6
    mu = q @ mean
    sigma = ((q @ (moment - torch.outer(mean, mean))) * q).sum(-1).sqrt()
    expected = (q @ (k.T @ v) - mu[:, None] * v.sum(0)) / (sigma + 1e-3)[:, None] / 6**0.5
    torch.testing.assert_close(weights[0, 0] @ v, expected, rtol=1e-10, atol=1e-10)
