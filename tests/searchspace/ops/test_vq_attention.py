"""Vector-quantised attention is softmax attention on the codes."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("closeness.argmax(-1)", "closeness.argmin(-1)")

CALIBRATE: Any = registry.operator("mixer", "vq_attention").calibrate


@pytest.mark.parametrize("causal", [True, False])
def test_with_a_code_for_every_key_it_is_softmax_attention(causal: bool):
    x = activations(16, B=1)
    quantised, exact = (
        build("mixer", "vq_attention", causal, **HEADS, num_codes=16),
        attention(causal, **HEADS),
    )
    CALIBRATE(quantised, [(x, Tokens())])
    weights = quantised.state_dict()
    del weights["codebook"]
    exact.load_state_dict(weights)
    assert_equal(output(quantised, x), output(exact, x))


def test_with_fewer_codes_it_is_softmax_attention_on_the_nearest_codes():
    x, module = activations(30), build("mixer", "vq_attention", **HEADS, num_codes=16)
    CALIBRATE(module, [(x, Tokens())])
    q, k, v = module.queries_keys_values(x)
    nearest = torch.cdist(k.transpose(1, 2), module.codebook).argmin(-1)  # [B, G, T]
    codes = torch.stack([module.codebook[g][nearest[:, g]] for g in range(2)], 2)
    q, k, v = q.transpose(1, 2), module.per_head(codes).transpose(1, 2), module.per_head(v).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_equal(output(module, x), module.merge_heads(y.transpose(1, 2)))


def test_k_means_finds_well_separated_clusters():
    module = build("mixer", "vq_attention", num_groups=1, heads_per_group=1, head_dim=4, num_codes=3)
    centres = 100 * torch.eye(3, 12, dtype=torch.float64)
    x = centres.repeat_interleave(5, 0).unsqueeze(0) + 0.01 * activations(15, B=1)
    CALIBRATE(module, [(x, Tokens())])
    means = module.k_proj(x).view(3, 5, 4).mean(1)
    distances = torch.cdist(means, module.codebook[0])
    assert_equal(distances.amin(1), torch.zeros(3, dtype=torch.float64))


def test_keys_learn_although_their_codes_are_fixed():
    x, module = activations(9), build("mixer", "vq_attention", **HEADS, num_codes=4)
    output(module, x).square().sum().backward()
    assert module.k_proj.weight.grad.any()
    assert not module.codebook.requires_grad
