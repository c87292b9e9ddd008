"""The identity passes everything."""

from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("weightless(identity)", "weightless(lambda x: -x)")


def test_it_gives_what_it_gets():
    x = activations()
    assert_equal(build("activation", "identity")(x), x)
