"""Hedgehog features are those of the vector itself at the start, and learn."""

from typing import Any

import pytest
import torch

from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.feature_maps import feature_map, vectors
from tests.searchspace.ops.identities import activations, assert_equal, build, output

DEFINING_TERM = ("torch.cat((y, -y), -1)", "torch.cat((y, y), -1)")
KINDS = pytest.mark.parametrize("softmax", ["halves", "joint", "none"])


@KINDS
def test_at_the_start_features_are_proportional_to_exponentials_of_both_signs(softmax: str):
    x = vectors()
    up, down = feature_map("hedgehog", softmax=softmax)(x).chunk(2, -1)
    for found, expected in ((up, x.exp()), (down, (-x).exp())):
        assert_equal(found / found.sum(-1, keepdim=True), expected / expected.sum(-1, keepdim=True))
    if softmax == "none":
        assert_equal(up, x.exp())
    if softmax == "joint":
        assert_equal(up * down * x.exp()[..., :1].square(), up[..., :1].square().expand_as(up))


@KINDS
def test_features_of_the_negative_vector_are_the_same_with_halves_exchanged(softmax: str):
    phi, x = feature_map("hedgehog", softmax=softmax), vectors()
    assert_equal(phi(-x), phi(x).roll(x.shape[-1], -1))


def attention(softmax: str, **more: Any):
    heads: dict[str, Any] = {"num_groups": 1, "heads_per_group": 1, "head_dim": 4}
    spec = OpSpec.of("hedgehog", softmax=softmax, **more)
    return build("mixer", "linear_attention", False, **heads, feature_map=spec)


@pytest.mark.parametrize("maps", ["shared", "separate"])
def test_it_is_the_attention_of_the_paper(maps: str):
    """o_i = sum_j phi(q_i) . phi'(k_j) v_j / sum_j phi(q_i) . phi'(k_j), phi(x) = [exp(W x + b), exp(-W x - b)]."""
    module, x = attention("none", maps=maps), activations()
    learned = dict(module.feature_map.named_parameters())
    assert len(learned) == (4 if maps == "separate" else 2)
    for tensor in learned.values():
        tensor.data.normal_(std=0.3)
    of_keys = "hedgehog_key" if maps == "separate" else "hedgehog"

    def phi(t: torch.Tensor, name: str) -> torch.Tensor:
        y = t @ learned[f"{name}_weight"][0].T + learned[f"{name}_bias"][0]
        return torch.cat((y.exp(), 1 / y.exp()), -1)

    q, k, v = (t.squeeze(2) for t in module.queries_keys_values(x))
    weights = phi(q, "hedgehog") @ phi(k, of_keys).mT
    expected = module.o_proj(weights / weights.sum(-1, keepdim=True) @ v)
    torch.testing.assert_close(output(module, x), expected, rtol=1e-5, atol=1e-6)  # eps in the divisor


def test_exponents_beyond_the_largest_overflow_nothing():
    module = attention("none").float()
    x = 1e4 * activations().float()
    assert output(module, x).isfinite().all()


@KINDS
def test_without_weights_attention_is_the_mean_of_the_values(softmax: str):
    module, x = attention(softmax), activations()
    module.feature_map.hedgehog_weight.data.zero_()
    mean = module.merge_heads(module.queries_keys_values(x)[2].mean(1, keepdim=True)).expand_as(x)
    torch.testing.assert_close(output(module, x), mean, rtol=1e-5, atol=1e-5)  # eps in the divisor
