"""Attention in blocks is attention under the mask of all pairs: windows, sinks, padding, gradients, export."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from searchspace import registry
from searchspace.cost import projection_flops
from searchspace.primitives.context import Tokens
from searchspace.primitives.local_attention import QUERIES, Blocks, blocks, num_pairs, windowed_attention
from searchspace.primitives.scores import Places, Visibility
from tests.searchspace.ops.identities import activations, attention, build, output

RULES = [
    Visibility(True, 1),
    Visibility(True, 16),
    Visibility(True, 16, 4),
    Visibility(True, 30, 60),
    Visibility(True, 100),
    Visibility(False, 1),
    Visibility(False, 17),
    Visibility(False, 64),
]


def by_all_pairs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A weight for each pair, 0 in rows that see nothing. q, k, v [B, T, H, K], seen [B, T, T] -> [B, T, H, K]."""
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / q.shape[-1] ** 0.5
    weights = scores.exp() * seen.unsqueeze(1)
    total = weights.sum(-1, keepdim=True)
    return torch.einsum("bhij,bjhk->bihk", weights / torch.where(total > 0, total, 1.0), v)


def sees(rule: Visibility, T: int) -> torch.Tensor:
    """[T, T], one pair after the other."""

    def one(i: int, j: int) -> bool:
        if not rule.causal:
            return abs(i - j) <= rule.window // 2
        return j <= i and (i - j < rule.window or j < rule.sinks)

    return torch.tensor([[one(i, j) for j in range(T)] for i in range(T)])


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("T", [390, 6 * QUERIES])
@pytest.mark.parametrize("rule", RULES)
def test_blocks_are_attention_under_a_mask(rule: Visibility, T: int, padding: bool) -> None:
    assert blocks(rule, T) is not None
    generator = torch.Generator().manual_seed(T)
    valid = torch.rand(2, T, generator=generator) < 0.7 if padding else None
    places = Places.following(0, T, torch.device("cpu"))
    seen = sees(rule, T).expand(2, T, T)
    seen = seen if valid is None else seen & valid[:, None]
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    for results, compute in (
        (found, lambda q, k, v: windowed_attention(q, k, v, rule, places, valid)),
        (expected, lambda q, k, v: by_all_pairs(q, k, v, seen)),
    ):
        q, k, v = (
            torch.randn(2, T, 2, 4, generator=generator.manual_seed(i), dtype=torch.float64).requires_grad_()
            for i in range(3)
        )
        y = compute(q, k, v)
        loss = (y * torch.randn(y.shape, generator=generator.manual_seed(3), dtype=torch.float64)).sum()
        results += [y, *torch.autograd.grad(loss, (q, k, v))]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_only_what_is_less_work_is_done_in_blocks() -> None:
    rule = Visibility(True, 16)
    assert blocks(Visibility(True), 4096) is None, "without a window there is nothing to save"
    assert blocks(rule, 2 * QUERIES) is None
    assert blocks(rule, 1024) == Blocks(1024 // QUERIES, before=15, after=0, sinks=0)
    assert num_pairs(rule, 1024, 1024) == 1024 * (QUERIES + 15)
    assert num_pairs(rule, 1, 1024) == 16, "a decoder's token sees its window"


@pytest.mark.parametrize("causal", [True, False])
def test_a_long_sequence_is_decoded_as_it_is_read(causal: bool) -> None:
    """In one call, and for a decoder in two, of which the second has a cache."""
    module = attention(causal, window=16, num_groups=2, heads_per_group=2)
    x = activations(300)
    y, _ = module(x, Tokens())
    seen = sees(module.rule, 300).expand(2, 300, 300)
    q, k, v = module.queries_keys_values(x)
    expected = module.merge_heads(by_all_pairs(q, module.per_head(k), module.per_head(v), seen))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    if causal:
        state = module.init_state(2, x.device, x.dtype)
        first, state = module(x[:, :250], Tokens(), state)
        second, _ = module(x[:, 250:], Tokens(), state)
        torch.testing.assert_close(torch.cat((first, second), 1), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax_attention", "native_sparse_attention"])
def test_counted_flops_of_blocks_are_those_that_torch_counts(name: str) -> None:
    sizes = {"block": 8, "num_blocks": 2} if name == "native_sparse_attention" else {}
    settings: dict[str, Any] = {"num_groups": 2, "heads_per_group": 2, "head_dim": 4, "window": 32, **sizes}
    module = attention(**settings) if not sizes else build("mixer", name, True, **settings)
    with FlopCounterMode(display=False) as counter:
        output(module.to("meta"), activations(300, B=1).to("meta"))
    assert registry.operator("mixer", name).flops(module, 300, 300) + projection_flops(module, 300) == (
        counter.get_total_flops()
    )
