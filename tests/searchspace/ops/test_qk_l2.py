"""Queries and keys of length 1."""

import math

import torch
from torch.nn import functional as F

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, attention, output

DEFINING_TERM = ("self.scale * math.sqrt(q.shape[-1])", "self.scale")


def test_attention_is_softmax_of_g_times_the_cosine():
    module, x = attention(qk_norm=OpSpec("qk_l2")), activations()
    q, k, v = (module.per_head(t) if t.shape[2] == 2 else t for t in module.queries_keys_values(x))
    cosine = F.cosine_similarity(q.unsqueeze(2), k.unsqueeze(1), dim=-1).permute(0, 3, 1, 2)  # [B, H, T, S]
    g = math.log2(64 * 63)
    scores = (g * cosine).masked_fill(~torch.ones(9, 9).tril().bool(), -torch.inf)
    y = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v)
    torch.testing.assert_close(output(module, x), module.merge_heads(y), rtol=1e-6, atol=1e-6)


def test_the_length_of_a_key_means_nothing():
    module = attention(qk_norm=OpSpec("qk_l2")).qk_norm
    q, k = torch.randn(2, 5, 4, 4).double(), torch.randn(2, 5, 2, 4).double()
    lengths = torch.rand(2, 5, 1, 1).double() + 0.1
    for found, expected in zip(module(lengths * q, k / lengths), module(q, k), strict=True):
        assert_equal(found, expected)
