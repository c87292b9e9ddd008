"""Token dropping keeps the tokens that the scorer wants most, in their order, and changes nothing else."""

from dataclasses import replace

import pytest
import torch

from searchspace.model import Model
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.validity import why_invalid, why_op_invalid
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


@pytest.mark.parametrize(("pooling", "asks"), [("first", "first"), ("first", "mean"), ("mean", "mean")])
def test_the_class_token_goes_on_where_the_head_reads_it(pooling: str, asks: str):
    """Of 32 random images the scorer would drop it in some. Scores are those of the token, or mean, that asks."""
    block = BlockSpec(plain_attention(1, 2, 4), NONE, OpSpec("layernorm"), OpSpec.of("dense", bias=False))
    drop = OpSpec.of("ia_red", keep_ratio=0.5, num_heads=2, head_dim=4, asks=asks)
    arch = ArchSpec(
        "classification",
        OpSpec.of("class_patch_embedding", image_size=8, patch_size=2, channels=1),
        D,
        (block, block),
        (StageSpec(1, D), StageSpec(1, D, enter=drop)),
        OpSpec.of("classifier", num_classes=10, pooling=pooling),
    )
    torch.manual_seed(3)
    assert why_invalid(arch) is None
    model, places = Model(arch).eval(), []
    torch.nn.init.normal_(model.part("stem").class_token)
    scorer = model.part("stages.1.enter")
    scorer.register_forward_hook(lambda _, given, out: places.append((given[0], out[1].positions)))
    model(torch.rand(32, 1, 8, 8))
    ((x, kept),) = places
    assert kept.shape == (32, 9)
    assert (kept[:, 0] == 0).all() == (pooling == "first")
    q, k = ((t @ w.T).unflatten(-1, (2, 4)) for t, w in ((x, scorer.scorer_query), (x, scorer.scorer_key)))
    asking = q[:, :1] if asks == "first" else q.mean(1, keepdim=True)
    torch.testing.assert_close(scorer.scores(x, Tokens()), torch.sigmoid((asking * k).sum(-1) / 2).mean(-1))


def test_the_first_token_asks_only_where_the_head_reads_it():
    spec = OpSpec.of("ia_red", keep_ratio=0.5, num_heads=2, head_dim=4, asks="first")
    reason = why_op_invalid("transition", spec, BuildContext(D, causal=False, d_next=D))
    assert reason is not None
    assert "pooling = 'first'" in reason


def test_it_is_refused_where_each_token_has_an_answer():
    drop = OpSpec.of("ia_red", keep_ratio=0.5, num_heads=2, head_dim=4)
    text, head = OpSpec.of("token_embedding", vocab_size=11, max_len=32), OpSpec.of("mlm_head", vocab_size=11)
    stages = (StageSpec(1, D), StageSpec(1, D, enter=drop))
    block = BlockSpec(plain_attention(1, 2, 4), NONE, OpSpec("layernorm"), OpSpec.of("dense", bias=False))
    arch = ArchSpec("masked_lm", text, D, (block, block), stages, head)
    reason = why_invalid(arch)
    assert reason is not None
    assert "ia_red" in reason
    assert "16 of 32" in reason
    kept = replace(
        arch,
        stages=(
            StageSpec(1, D),
            StageSpec(1, D, enter=OpSpec.of("ia_red", **dict(drop.items) | {"keep_ratio": 1.0})),
        ),
    )
    assert why_invalid(kept) is None


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
