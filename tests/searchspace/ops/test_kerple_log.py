"""KERPLE's logarithmic bias."""

import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.score_biases import bias_of, centred_eigenvalues, distances

DEFINING_TERM = ("torch.log1p(a * far)", "(a * far)")


def test_the_bias_is_a_power_of_distance_in_the_weights():
    """exp(-p ln(1 + a n)) = (1 + a n)^-p."""
    bias = bias_of("kerple_log")
    p, a = (torch.nn.functional.softplus(raw)[:, None] for raw in (bias.log_scale, bias.log_rate))
    n = torch.arange(6)
    assert_equal(bias(n.unsqueeze(0)).exp()[:, 0], (1 + a * n) ** -p)


def test_it_falls_with_distance_and_is_a_conditionally_positive_definite_kernel():
    bias = bias_of("kerple_log")(distances(40))
    assert (bias[:, 0].diff() < 0).all()
    assert centred_eigenvalues(bias).min() > -1e-12
