"""Galerkin attention: a mean over the sequence that is linear in the queries."""

import pytest
import torch

from tests.searchspace.ops.identities import HEADS, activations, assert_equal, build, output

DEFINING_TERM = ("self.k_norm(k), self.v_norm(v)", "self.k_norm(k), v")


def test_every_token_twice_changes_nothing():
    module, x = build("mixer", "galerkin", causal=False, **HEADS), activations()
    assert_equal(output(module, x.repeat(1, 2, 1))[:, :9], output(module, x))


@pytest.mark.parametrize("causal", [True, False])
def test_the_output_is_linear_in_queries_and_does_not_feel_the_scale_of_keys_and_values(causal: bool):
    module, x = build("mixer", "galerkin", causal, **HEADS), 10 * activations()
    before = output(module, x)
    module.q_proj.weight.data.mul_(3.0)
    assert_equal(output(module, x), 3 * before)
    module.k_proj.weight.data.mul_(5.0)
    module.v_proj.weight.data.mul_(7.0)
    torch.testing.assert_close(output(module, x), 3 * before, rtol=1e-2, atol=1e-2)  # eps of the norms


def test_the_last_token_of_a_causal_network_sees_what_it_sees_in_a_bidirectional_one():
    causal, both = build("mixer", "galerkin", True, **HEADS), build("mixer", "galerkin", False, **HEADS)
    both.load_state_dict(causal.state_dict())
    x = activations(20)
    assert_equal(output(causal, x)[:, -1], output(both, x)[:, -1])
