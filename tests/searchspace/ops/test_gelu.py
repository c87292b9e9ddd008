"""GELU is x times a distribution function, in its tanh form."""

import torch

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = (
    'approximate="tanh"',
    'approximate="none"',
    "searchspace/primitives/activations.py",
)


def test_what_it_gives_a_value_and_its_negative_differ_by_the_value():
    gelu, x = build("activation", "gelu"), activations()
    assert_equal(gelu(x) - gelu(-x), x)


def test_it_stays_within_a_thousandth_of_the_exact_form_but_is_not_it():
    gelu, x = build("activation", "gelu"), torch.linspace(-5, 5, 1001, dtype=torch.float64)
    exact = x * torch.special.ndtr(x)
    assert 1e-5 < (gelu(x) - exact).abs().max() < 1e-3
