"""LayerNorm of queries and keys."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import assert_equal, attention

DEFINING_TERM = ("self.k_weight, self.k_bias", "self.q_weight, self.k_bias")


@torch.no_grad()
def test_a_shift_of_all_channels_changes_nothing_and_the_bias_is_the_mean():
    norm = attention(qk_norm=OpSpec("qk_layernorm")).qk_norm
    norm.q_bias.fill_(2.0)
    norm.k_weight.fill_(3.0)
    q, k = torch.randn(2, 5, 4, 4).double(), 100 * torch.randn(2, 5, 2, 4).double()
    found = norm(q, k)
    for shifted, expected in zip(norm(q + 1, k - 7), found, strict=True):
        torch.testing.assert_close(shifted, expected, rtol=1e-9, atol=1e-9)
    assert_equal(found[0].mean(-1), torch.full((2, 5, 4), 2.0).double())
    deviation = found[1].std(-1, correction=0)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 3.0), rtol=1e-5, atol=1e-5)
