"""An MLP holds the narrower ones."""

import pytest

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("self.activation(self.up_proj(x))", "self.up_proj(x)")


@pytest.mark.parametrize("activation", ["gelu", "relu", "relu_squared", "silu"])
def test_units_beyond_the_first_change_nothing_where_they_are_not_read(activation: str):
    wide, narrow = (build("ffn", "mlp", d_ff=f, activation=OpSpec(activation)) for f in (32, 8))
    narrow.up_proj.weight.data.copy_(wide.up_proj.weight[:8])
    narrow.down_proj.weight.data.copy_(wide.down_proj.weight[:, :8])
    wide.down_proj.weight.data[:, 8:] = 0
    x = activations()
    assert_equal(output(narrow, x), output(wide, x))


def test_squared_relu_is_homogeneous_of_degree_two():
    mlp, x = build("ffn", "mlp", d_ff=8, activation=OpSpec("relu_squared")), activations()
    assert_equal(output(mlp, 3 * x), 9 * output(mlp, x))
