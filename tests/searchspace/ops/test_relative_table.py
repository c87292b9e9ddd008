"""The relative table: near distances one by one, far ones in logarithmic buckets."""

import torch

from searchspace.ops.score_bias.relative_table import borders
from tests.searchspace.ops.score_biases import bias_of, distances

DEFINING_TERM = ("(distance < 0) * (self.num_buckets // 2)", "0")


def test_near_distances_have_a_bucket_each_and_the_far_ones_share_the_last():
    """With 16 buckets the logarithmic part goes from 8 to 128 in ratios of sqrt(2)."""
    edges = borders(16)
    assert edges[:8] == tuple(range(1, 9))
    assert edges[8:] == (12, 16, 23, 32, 46, 64, 91)
    bias, far = bias_of("relative_table", num_buckets=16), torch.tensor([[91, 128, 1000]])
    assert (bias(far) == bias.table[:, None, -1:]).all()


def test_a_network_that_sees_both_sides_tells_them_apart():
    bias = bias_of("relative_table", causal=False, num_buckets=16)(distances(9))
    assert not torch.isclose(bias, bias.transpose(1, 2)).all(0).triu(1).any()
    assert (bias[:, 0, 0] == bias[:, 5, 5]).all()


def test_a_table_of_equal_numbers_changes_no_attention():
    bias = bias_of("relative_table", num_buckets=16)
    with torch.no_grad():
        bias.table.fill_(3.0)
    assert (bias(distances(9)) == 3.0).all()
