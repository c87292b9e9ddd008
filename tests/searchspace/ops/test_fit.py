"""Latents of a group know its tokens alone; what passes between groups passes through the stage on latents."""

from typing import Any

import torch

from searchspace import registry
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.spec.arch import OpSpec
from tests.searchspace.ops.identities import D, activations, assert_equal, build

DEFINING_TERM = (
    ".reshape(-1, n, x.shape[-1])",
    ".unflatten(1, (n, -1)).transpose(1, 2).reshape(-1, n, x.shape[-1])",
)
HEADS: dict[str, Any] = {"num_heads": 2, "head_dim": 4}


def both_ends(group_len: int, num_latents: int) -> tuple[Any, Any]:
    items = {"group_len": group_len, "num_latents": num_latents, **HEADS}
    back = BuildContext(20, causal=False, layout=Layout(64), d_next=D)
    way_back: Any = registry.build("way_back", OpSpec.of("fit", **items), back)
    return build("transition", "fit", causal=False, **items), way_back.double()


def test_between_the_ends_alone_a_token_knows_its_group():
    (read, write), x = both_ends(4, 2), activations(11).requires_grad_()
    y = write(*read(x, Tokens()))[0]
    for t in (0, 5, 10):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        assert gradient.any(-1).any(0).tolist() == [s // 4 == t // 4 for s in range(11)]


def test_what_latents_exchange_reaches_every_token():
    (read, write), x = both_ends(4, 2), activations(11).requires_grad_()
    z, tokens, saved = read(x, Tokens())
    y = write(z + z.mean(1, keepdim=True), tokens, saved)[0]
    (gradient,) = torch.autograd.grad(y[:, 0].square().sum(), x)
    assert gradient.any(-1).any(0).all()


def test_a_group_of_one_token_with_one_latent_is_two_linear_maps():
    """Softmax over one key is 1."""
    (read, write), x = both_ends(1, 1), activations(5)

    def normed(rows: torch.Tensor) -> torch.Tensor:
        return (rows - rows.mean(-1, keepdim=True)) / (
            rows.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()

    z, tokens, saved = read(x, Tokens())
    assert_equal(z, read.latents + read.read_o_proj(read.read_v_proj(normed(x))))
    assert_equal(write(z, tokens, saved)[0], x + write.write_o_proj(write.write_v_proj(normed(z))))


def test_padding_has_no_influence_and_a_group_of_padding_is_padding():
    (read, write), x = both_ends(4, 2), activations(12)
    valid = torch.arange(12).expand(2, 12) < 6
    z, tokens, saved = read(x, Tokens(valid=valid))
    short, short_tokens, short_saved = read(x[:, :6], Tokens())
    assert_equal(z[:, :4], short)
    assert tokens.valid.tolist() == [[True] * 4 + [False] * 2] * 2
    assert_equal(write(z, tokens, saved)[0][:, :6], write(short, short_tokens, short_saved)[0])
