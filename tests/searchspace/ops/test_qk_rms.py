"""RMSNorm of queries and keys."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import assert_equal, attention

DEFINING_TERM = ("F.rms_norm(k, K, self.k_weight, self.eps)", "F.rms_norm(k, K, self.q_weight, self.eps)")


@torch.no_grad()
def test_each_head_has_the_root_mean_square_that_its_weights_have():
    norm = attention(qk_norm=OpSpec("qk_rms")).qk_norm
    norm.q_weight.fill_(3.0)
    norm.k_weight.fill_(0.5)
    q, k = norm(100 * torch.randn(2, 5, 4, 4).double(), 100 * torch.randn(2, 5, 2, 4).double())
    for x, expected in ((q, 3.0), (k, 0.5)):
        rms = x.square().mean(-1).sqrt()
        torch.testing.assert_close(rms, torch.full_like(rms, expected), rtol=1e-7, atol=1e-7)


def test_scaled_to_length_one_it_is_the_l2_norm():
    norm = attention(qk_norm=OpSpec("qk_rms")).qk_norm
    q = 1e6 * torch.randn(2, 5, 4, 4).double()
    assert_equal(norm(q, q)[0] / 2, q / q.norm(dim=-1, keepdim=True))
