"""ALiBi falls linearly with distance."""

import torch

from searchspace.contracts.slicing import supernet_and_archs
from searchspace.primitives.scores import HeadSizes
from searchspace.registry import operator
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import activations, attention, output

DEFINING_TERM = ("return -self.slopes", "return self.slopes")


def test_the_slopes_of_eight_heads_are_the_powers_of_one_half():
    bias = operator("score_bias", "alibi").build(OpSpec("alibi"), None, HeadSizes(4, 2))
    found = bias(torch.tensor([[0, 1, 5, -5]]))
    for h in range(8):
        assert found[h, 0].tolist() == [0.0, -(0.5 ** (h + 1)), -5 * 0.5 ** (h + 1), -5 * 0.5 ** (h + 1)]


def test_the_slopes_of_six_heads_are_those_of_four_and_every_other_of_eight():
    bias = operator("score_bias", "alibi").build(OpSpec("alibi"), None, HeadSizes(6, 1))
    assert (-bias(torch.tensor([[1]]))).log2().flatten().tolist() == [-2, -4, -6, -8, -1, -3]


def test_a_head_keeps_its_slope_in_a_smaller_network():
    """The supernet has two groups of two heads; a smaller network keeps the first heads of the first groups."""
    supernet, archs = supernet_and_archs(operator("score_bias", "alibi"), causal=True, count=12)
    sizes = set()
    for arch in archs:
        for name, slopes in supernet.weights(arch).items():
            if name.endswith("slopes"):
                mixer = arch.blocks[int(name.split(".")[1])].mixer
                G, R = mixer["num_groups"], mixer["heads_per_group"]
                assert slopes.tolist() == [2.0 ** (-2 * (2 * g + r + 1)) for g in range(G) for r in range(R)]
                sizes.add((G, R))
    assert len(sizes) > 2


def test_each_weight_gets_a_factor_that_falls_exponentially_with_distance():
    biased, x = attention(score_bias=OpSpec("alibi")), activations(5)
    q, k, v = (biased.per_head(t) if t.shape[2] == 2 else t for t in biased.queries_keys_values(x))
    i = torch.arange(5.0, dtype=torch.float64)
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=torch.float64)
    factors = torch.exp(-slopes[:, None, None] * (i[:, None] - i[None, :])).tril()
    weights = torch.exp(torch.einsum("bthk,bshk->bhts", q, k) / 2) * factors
    y = torch.einsum("bhts,bshk->bthk", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(output(biased, x), biased.merge_heads(y), rtol=1e-6, atol=1e-6)
