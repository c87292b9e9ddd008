"""ALiBi falls linearly with distance."""

import torch

from searchspace.primitives.scores import HeadSizes
from searchspace.registry import operator
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, attention, output

DEFINING_TERM = ("-torch.exp2(exponents)", "torch.exp2(exponents)")


def test_the_slopes_of_eight_heads_are_the_powers_of_one_half():
    bias = operator("score_bias", "alibi").build(OpSpec("alibi"), None, HeadSizes(4, 2))
    found = bias(torch.tensor([[0, 1, 5, -5]]))
    for h in range(8):
        assert found[h, 0].tolist() == [0.0, -(0.5 ** (h + 1)), -5 * 0.5 ** (h + 1), -5 * 0.5 ** (h + 1)]


def test_each_weight_gets_a_factor_that_falls_exponentially_with_distance():
    biased, x = attention(score_bias=OpSpec("alibi")), activations(5)
    q, k, v = (biased.per_head(t) if t.shape[2] == 2 else t for t in biased.queries_keys_values(x))
    i = torch.arange(5.0, dtype=torch.float64)
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=torch.float64)
    factors = torch.exp(-slopes[:, None, None] * (i[:, None] - i[None, :])).tril()
    weights = torch.exp(torch.einsum("bthk,bshk->bhts", q, k) / 2) * factors
    y = torch.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(output(biased, x), biased.merge_heads(y), rtol=1e-6, atol=1e-6)
