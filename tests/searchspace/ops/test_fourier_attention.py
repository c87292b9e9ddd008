"""Fourier attention is Galerkin attention with other operands normalised."""

import pytest
import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = ("self.q_norm(q) / math.sqrt(self.K)", "q / math.sqrt(self.K)")


def test_every_token_twice_changes_nothing():
    module, x = build("mixer", "fourier_attention", causal=False, **HEADS), activations()
    assert_equal(output(module, x.repeat(1, 2, 1))[:, :9], output(module, x))


@pytest.mark.parametrize("causal", [True, False])
def test_the_output_is_linear_in_values_and_does_not_feel_the_scale_of_queries_and_keys(causal: bool):
    module, x = build("mixer", "fourier_attention", causal, **HEADS), 10 * activations()
    before = output(module, x)
    module.v_proj.weight.data.mul_(3.0)
    assert_equal(output(module, x), 3 * before)
    module.q_proj.weight.data.mul_(5.0)
    module.k_proj.weight.data.mul_(7.0)
    torch.testing.assert_close(output(module, x), 3 * before, rtol=1e-2, atol=1e-2)  # eps of the norms


def test_a_single_token_gets_its_value_times_the_product_of_its_normalised_query_and_key():
    module, x = build("mixer", "fourier_attention", **HEADS | {"num_groups": 1}), 10 * activations(1)
    q, k, v = module.queries_keys_values(x)
    s = (standardised(q) * standardised(k)).sum(-1, keepdim=True) / 2
    torch.testing.assert_close(output(module, x), module.merge_heads(s * v), rtol=1e-4, atol=1e-4)


def standardised(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
