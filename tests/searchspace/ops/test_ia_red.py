"""Token dropping keeps the tokens that the scorer wants most, in their order, and changes nothing else."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from tests.searchspace.ops.identities import D, activations, attention, build

DEFINING_TERM = (".indices.sort().values", ".indices")


def dropping(keep_ratio: float):
    return build("transition", "ia_red", causal=False, keep_ratio=keep_ratio, num_heads=2, head_dim=4)


def test_keeping_all_tokens_changes_nothing_bitwise():
    x = activations(9)
    y, tokens, _ = dropping(1.0)(x, Tokens(positions=torch.arange(9)))
    assert torch.equal(y[..., :D], x)
    assert not y[..., D:].any()
    assert torch.equal(tokens.positions, torch.arange(9).expand(2, 9))


@pytest.mark.parametrize(("keep_ratio", "kept"), [(0.5, 5), (0.7, 7), (0.9, 9)])
def test_the_tokens_with_the_largest_scores_go_on_in_their_order(keep_ratio: float, kept: int):
    module, x = dropping(keep_ratio), activations(10)
    y, tokens, _ = module(x, Tokens(positions=torch.arange(10)))
    places = tokens.positions
    assert places.shape == (2, kept)
    assert (places.diff(dim=1) > 0).all()
    p = module.scores(x, Tokens())
    for b in range(2):
        left_out = [t for t in range(10) if t not in places[b].tolist()]
        assert p[b, places[b]].min() >= p[b, left_out].max()
        assert torch.equal(y[b, :, :D], x[b, places[b]])


def test_attention_on_what_is_kept_is_attention_with_the_rest_hidden():
    module, mixer, x = dropping(0.5), attention(causal=False), activations(10)
    y, tokens, _ = module(x, Tokens(positions=torch.arange(10)))
    valid = torch.zeros(2, 10, dtype=torch.bool).scatter(1, tokens.positions, True)
    masked = mixer(x, Tokens(valid=valid))[0].gather(1, tokens.positions.unsqueeze(-1).expand(-1, -1, D))
    torch.testing.assert_close(mixer(y[..., :D], Tokens())[0], masked, rtol=1e-12, atol=1e-12)


def test_the_scorer_learns_straight_through():
    """d sum(y) / d p_j is the sum of token j where it is kept, 0 where it is not."""
    module, x = dropping(0.5), activations(10)
    p = module.scores(x, Tokens())
    y, tokens, _ = module(x, Tokens(positions=torch.arange(10)))
    weights = torch.zeros(2, 10, dtype=torch.float64).scatter(1, tokens.positions, 1.0)
    expected = torch.autograd.grad((p * (weights * x.sum(-1))).sum(), module.scorer_key)[0]
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), module.scorer_key)[0], expected, rtol=1e-10, atol=1e-12
    )


def test_padding_is_dropped_first():
    module, x = dropping(0.5), activations(10)
    valid = torch.arange(10).expand(2, 10) >= 5
    y, tokens, _ = module(x, Tokens(valid=valid, positions=torch.arange(10)))
    assert torch.equal(tokens.positions, torch.arange(5, 10).expand(2, 5))
    assert tokens.valid.all()
    noisy = module(x + ~valid.unsqueeze(-1) * 9.0, Tokens(valid=valid))[0]
    assert torch.equal(noisy, y)
