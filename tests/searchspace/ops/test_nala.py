"""Norm-aware linear attention: long queries look at few keys."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import activations, assert_equal, build

DEFINING_TERM = ("0.5 + torch.tanh(q.norm(dim=-1, keepdim=True))", "1.5 + 0 * q.norm(dim=-1, keepdim=True)")
HEADS: dict[str, Any] = {"num_groups": 1, "heads_per_group": 1, "head_dim": 8}
SETTINGS: dict[str, Any] = HEADS | {"power": 3, "key_exponent": 3, "kernel_size": 3}


def entropy(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Of the weights of every query, averaged."""
    q, k, _ = module.features(x, Tokens())
    weights = torch.einsum("bihk,bjhk->bhij", q, k)
    assert (weights >= 0).all()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.special.entr(weights).sum(-1).mean()


def test_entropy_falls_as_queries_grow():
    module, x, found = build("mixer", "nala", **SETTINGS), activations(), []
    for scale in (0.05, 0.3, 1.0, 3.0):
        wider = build("mixer", "nala", **SETTINGS)
        wider.load_state_dict(module.state_dict())
        wider.q_proj.weight.data.mul_(scale)
        found.append(float(entropy(wider, x).detach()))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] + 0.01


def test_features_keep_the_sign_apart():
    module, x = build("mixer", "nala", **SETTINGS), activations()
    q, k, _ = module.features(x, Tokens())
    minus_q, minus_k, _ = module.features(-x, Tokens())
    assert not (q * minus_q).any()
    assert not (k * minus_k).any()
    up, down = k.chunk(2, -1)
    assert_equal(up - down, module.queries_keys_values(x)[1] ** 3)


def test_weights_with_rotary_positions_depend_on_distances_alone():
    module, x = build("mixer", "nala", **SETTINGS), activations(1)
    q, k, _ = module.features(x, Tokens())

    def weight(i: int, j: int) -> torch.Tensor:
        def turned(features: torch.Tensor, place: int) -> torch.Tensor:
            angle = place * 0.3 ** torch.arange(4, dtype=torch.float64).view(1, 4)
            return module.turn(features, Tokens(rotary=(angle.cos(), angle.sin())))

        return (turned(q, i) * turned(k, j)).sum(-1)

    assert_equal(weight(7, 5), weight(3, 1))
    assert_equal(weight(4, 4), (q * k).sum(-1))
