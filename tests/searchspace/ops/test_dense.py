"""A dense projection is the linear map of its weight."""

import torch

from tests.searchspace.ops.identities import assert_equal
from tests.searchspace.ops.projection import projection

DEFINING_TERM = (
    'F.linear(x, self.weight, self._parameters.get("bias"))',
    'F.linear(x.abs(), self.weight, self._parameters.get("bias"))',
)


def test_basis_vectors_give_the_columns():
    dense = projection("dense", 5, 7, bias=False)
    assert_equal(dense(torch.eye(7, dtype=torch.float64)), dense.weight.T)


def test_the_bias_is_what_zero_gives():
    dense = projection("dense", 5, 7, bias=True)
    dense.bias.data.normal_()
    assert_equal(dense(torch.zeros(7, dtype=torch.float64)), dense.bias)
