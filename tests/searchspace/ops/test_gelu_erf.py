"""GELU is x times a distribution function, in its exact form."""

import torch

from tests.searchspace.ops.identities import assert_equal, build

DEFINING_TERM = ("weightless(F.gelu)", "weightless(F.relu)")


def test_it_is_the_value_times_the_normal_distribution_function():
    gelu, x = build("activation", "gelu_erf"), torch.linspace(-5, 5, 1001, dtype=torch.float64)
    assert_equal(gelu(x), x * torch.special.ndtr(x))
