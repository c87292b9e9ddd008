"""Weighted multiplicative attention: one more map of the queries."""

import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, assert_equal, attention, output

DEFINING_TERM = ("self.score_proj(q.flatten(2)).view_as(q), k", "q, k")


@torch.no_grad()
def test_it_is_attention_whose_query_projection_is_the_product():
    weighted, plain = attention(qk_norm=OpSpec("weighted_query")), attention()
    plain.load_state_dict(weighted.state_dict(), strict=False)
    plain.q_proj.weight.copy_(weighted.qk_norm.score_proj.weight @ weighted.q_proj.weight)
    x = activations()
    assert_equal(output(weighted, x), output(plain, x))


@torch.no_grad()
def test_with_the_identity_it_is_plain_attention():
    weighted, plain = attention(False, qk_norm=OpSpec("weighted_query")), attention(False)
    plain.load_state_dict(weighted.state_dict(), strict=False)
    weighted.qk_norm.score_proj.weight.copy_(torch.eye(16))
    x = activations()
    assert_equal(output(weighted, x), output(plain, x))
