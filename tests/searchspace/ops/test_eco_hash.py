"""EcoFormer's weights are distances of binary codes, and the codes follow softmax attention."""

from typing import Any

import torch

from searchspace import registry
from searchspace.ops.linear_attention.eco_hash import similarity
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, build, output

DEFINING_TERM = ("math.sqrt(self.N + 1)", "math.sqrt(self.N)")
SETTINGS: dict[str, Any] = {"num_groups": 2, "head_dim": 4, "num_bits": 8, "num_anchors": 16}
CALIBRATE: Any = registry.operator("mixer", "eco_hash").calibrate


def test_weights_grow_with_the_number_of_equal_bits():
    """c . c' = N - 2 Hamming distance, so a pair weighs 2 (N - distance) + 1."""
    module, x = build("mixer", "eco_hash", causal=False, **SETTINGS), activations()
    CALIBRATE(module, [(x, Tokens())])
    codes = module.codes(module.keys(x))
    assert (codes.abs() == 1).all()
    equal = (codes.unsqueeze(2) == codes.unsqueeze(1)).sum(-1)  # [B, i, j, G]
    weights = 2 * equal.double() + 1
    weights = weights / weights.sum(2, keepdim=True)
    o = torch.einsum("bijg,bjgv->bigv", weights, module.v_proj(x).unflatten(2, (2, 4)))
    torch.testing.assert_close(output(module, x), module.o_proj(o.flatten(2)), rtol=1e-6, atol=1e-6)


def test_learned_codes_follow_the_similarity_better_than_random_ones():
    module, x = build("mixer", "eco_hash", **SETTINGS), activations(60, B=1)

    def error() -> torch.Tensor:
        codes, k = module.codes(module.keys(x))[0], module.keys(x)[0]
        found = [(codes[:, g] @ codes[:, g].T - 8 * similarity(k[:, g])).square().mean() for g in range(2)]
        return torch.stack(found).detach()

    before = error()
    CALIBRATE(module, [(x, Tokens())])
    assert (error() < before).all()


def test_similar_tokens_attend_most_and_dissimilar_ones_least():
    one_way = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64).repeat(10, 1)
    target = similarity(torch.cat((one_way, -one_way)))
    same = torch.ones(10, 10, dtype=torch.float64)
    assert torch.equal(target, torch.kron(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), same))


def test_keys_learn_through_their_codes():
    module, x = build("mixer", "eco_hash", **SETTINGS), activations(20)
    CALIBRATE(module, [(x, Tokens())])
    output(module, x).square().sum().backward()
    assert module.k_proj.weight.grad.any()
