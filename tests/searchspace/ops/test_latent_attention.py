"""Latent attention: one short vector of each token stands for the keys and values of all heads."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, attention, build, output

DEFINING_TERM = ('torch.einsum("bthk,hkp->bhp", q, keys)', 'torch.einsum("bthk,hkp->bhp", 0 * q, keys)')
SIZES: dict[str, Any] = {"num_heads": 3, "head_dim": 4, "kv_rank": 5, "query_rank": 6, "rope_dim": 2}


@torch.no_grad()
def test_a_step_with_absorbed_weights_is_the_last_row_of_expanded_attention():
    for queries in ("compressed", "full"):
        module, x = build("mixer", "latent_attention", **SIZES, queries=queries), activations()
        _, state = module(x[:, :8], Tokens(), module.init_state(2, x.device, x.dtype))
        step, _ = module(x[:, 8:], Tokens(), state)
        torch.testing.assert_close(step, output(module, x)[:, 8:], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_token_leaves_its_latent_vector_and_one_rotary_key():
    module, x = build("mixer", "latent_attention", **SIZES), activations(7)
    _, state = module(x, Tokens(), module.init_state(2, x.device, x.dtype))
    assert {name: tuple(t.shape) for name, t in state.items() if name != "num_tokens"} == {
        "latent": (2, 7, 5),
        "rotary": (2, 7, 2),
    }


@torch.no_grad()
def test_without_rotary_parts_it_is_attention_whose_keys_and_values_have_a_low_rank():
    """The latent vector's norm is 1 here, since it is +-1 in each channel."""
    latent = build("mixer", "latent_attention", **SIZES, queries="full")
    plain, x = attention(num_groups=3, heads_per_group=1, head_dim=4), activations()
    x[..., :5] = x[..., :5].sign()
    latent.latent_proj.weight.copy_(torch.eye(5, D))
    latent.rotary_key_proj.weight.zero_()
    plain.q_proj.weight.copy_(latent.q_proj.weight * (4 / 6) ** 0.5)  # divided by sqrt(K + E) there
    plain.k_proj.weight.copy_(latent.latent_keys @ torch.eye(5, D).double())
    plain.v_proj.weight.copy_(latent.latent_values @ torch.eye(5, D).double())
    plain.o_proj.weight.copy_(latent.o_proj.weight)
    torch.testing.assert_close(output(latent, x), output(plain, x), rtol=1e-5, atol=1e-5)  # eps of the norm
