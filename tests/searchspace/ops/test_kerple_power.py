"""KERPLE's power bias, of which ALiBi is a special case."""

import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.score_biases import bias_of, centred_eigenvalues, distances

DEFINING_TERM = ("p = 2 * torch.sigmoid", "p = torch.sigmoid")


@torch.no_grad()
def test_with_exponent_one_and_its_slopes_it_is_alibi():
    power, alibi = bias_of("kerple_power"), bias_of("alibi")
    slopes = torch.tensor([2.0 ** (-8 * h / 4) for h in range(1, 5)], dtype=torch.float64)
    power.slope.copy_(torch.log(torch.expm1(slopes)))
    power.exponent.zero_()
    assert_equal(power(distances(9)), alibi(distances(9)).double())


@torch.no_grad()
def test_it_stays_a_conditionally_positive_definite_kernel_at_the_largest_exponent():
    bias = bias_of("kerple_power")
    bias.exponent.fill_(50.0)
    found = bias(distances(30))
    assert centred_eigenvalues(found).min() > -1e-9 * found.abs().max()


def test_the_gradient_is_finite_at_distance_zero():
    bias = bias_of("kerple_power")
    bias(distances(3)).sum().backward()
    assert bias.exponent.grad.isfinite().all()
