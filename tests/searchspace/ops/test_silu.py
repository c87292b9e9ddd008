"""SiLU is x times its sigmoid."""

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("weightless(F.silu)", "weightless(F.mish)")


def test_what_it_gives_a_value_and_its_negative_differ_by_the_value():
    silu, x = build("activation", "silu"), activations()
    assert_equal(silu(x) - silu(-x), x)


def test_it_gives_the_share_that_the_sigmoid_says():
    silu, x = build("activation", "silu"), activations().abs() + 0.1
    assert_equal((silu(x) / x).logit(), x)
