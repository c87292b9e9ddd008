"""A low-rank projection is a linear map of the rank that was asked for."""

import pytest
import torch

from tests.searchspace.ops.projection import projection

DEFINING_TERM = ('max(1, round(spec["rank_ratio"] * min(out.size, inp.size)))', "min(out.size, inp.size)")


@pytest.mark.parametrize(("ratio", "rank"), [(0.25, 2), (0.5, 4), (0.01, 1)])
def test_its_matrix_has_the_rank(ratio: float, rank: int):
    matrix = projection("low_rank", 16, 8, rank_ratio=ratio)(torch.eye(8, dtype=torch.float64)).T
    assert torch.linalg.matrix_rank(matrix) == rank
