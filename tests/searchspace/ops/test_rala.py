"""Rank-augmented linear attention is linear attention where all keys are wanted equally."""

from typing import Any

import torch

from searchspace.primitives.context import Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import HEADS, activations, build, output

DEFINING_TERM = ("k = k * self.alpha(q, k, real)", "k = k * self.alpha(q, k, real) ** 0.5")
IMAGE = Tokens(grid=(3, 3))


def plain_and_augmented() -> tuple[Any, Any]:
    """With the same weights and without the convolution."""
    rala = build("mixer", "rala", False, **HEADS, kernel_size=3, gate=False)
    rala.value_conv.weight.data.zero_()
    plain = build("mixer", "linear_attention", False, **HEADS, feature_map=OpSpec("elu_plus_one"))
    plain.load_state_dict({n: t for n, t in rala.state_dict().items() if "conv" not in n})
    return plain, rala


def test_with_equal_keys_of_unequal_values_it_is_linear_attention():
    (plain, rala), x = plain_and_augmented(), activations()
    for module in (plain, rala):
        module.k_proj.weight.data.zero_()
    torch.testing.assert_close(output(rala, x, IMAGE), output(plain, x), rtol=1e-5, atol=1e-5)


def test_the_weights_of_the_keys_sum_to_their_number_and_prefer_what_queries_want():
    _, rala = plain_and_augmented()
    q, k, _, real = rala.mapped(activations(), Tokens())
    alpha = rala.alpha(q, k, real)
    torch.testing.assert_close(alpha.sum(1), torch.full_like(alpha[:, 0], 9.0))
    wanted = torch.einsum("bihk,bjhk->bjh", q, k)
    assert torch.equal(alpha.squeeze(-1).argsort(1), wanted.argsort(1))


def test_the_output_is_augmented_by_those_weights():
    (plain, rala), x = plain_and_augmented(), activations()
    q, k, v, real = rala.mapped(x, Tokens())
    weights = torch.einsum("bihk,bjhk->bhij", q, k * rala.alpha(q, k, real))
    total = weights.sum(-1, keepdim=True)
    o = torch.einsum("bhij,bjhv->bihv", weights / total, rala.per_head(v))
    torch.testing.assert_close(output(rala, x, IMAGE), rala.merge_heads(o), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output(plain, x), output(rala, x, IMAGE), atol=1e-4)
    rotary = build("position", "rope_2d", False, base=100, dim=4)
    placed = rotary(x, Tokens(positions=torch.arange(9), grid=(3, 3)))[1]
    as_complex = [torch.view_as_complex(t.unflatten(-1, (2, 2))) for t in (q, k * rala.alpha(q, k, real))]
    place = torch.stack(
        [torch.arange(9) // 3, torch.arange(9) % 3], -1
    ).double()  # pair 0 by row, pair 1 by column
    turned = [t * torch.exp(1j * place).unsqueeze(1) for t in as_complex]
    weights = torch.einsum("bihp,bjhp->bhij", turned[0], turned[1].conj()).real
    o = torch.einsum("bhij,bjhv->bihv", weights / total, rala.per_head(v))
    torch.testing.assert_close(output(rala, x, placed), rala.merge_heads(o), rtol=1e-5, atol=1e-5)
