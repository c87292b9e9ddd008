"""RMSNorm of queries and keys over all heads together."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import attention

DEFINING_TERM = (
    "F.rms_norm(flat, flat.shape[-1:], weight, self.eps)",
    "F.rms_norm(flat, flat.shape[-1:], None, self.eps)",
)


@torch.no_grad()
def test_all_heads_together_have_the_root_mean_square_that_the_weights_have():
    norm = attention(qk_norm=OpSpec("qk_rms_joint")).qk_norm
    norm.q_weight.fill_(3.0)
    norm.k_weight.fill_(0.5)
    q, k = 100 * torch.randn(2, 5, 4, 4).double(), 100 * torch.randn(2, 5, 2, 4).double()
    q[:, :, 0] *= 10  # a head stays larger than the others
    for x, given, expected in ((norm(q, k)[0], q, 3.0), (norm(q, k)[1], k, 0.5)):
        rms = x.square().mean((-2, -1)).sqrt()
        torch.testing.assert_close(rms, torch.full_like(rms, expected), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(x / x[:, :, :1, :1], given / given[:, :, :1, :1])
