"""HiP attention: exact where its budget covers the sequence or scores are smooth."""

import pytest
import torch

from searchspace.primitives.context import Tokens
from searchspace.primitives.selection import num_rounds, tree_select
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = (
    "worth = worth.masked_fill(high <= low, -torch.inf)",
    "worth = -worth.masked_fill(high <= low, torch.inf)",
    "searchspace/primitives/selection.py",
)


@pytest.mark.parametrize("num_keys", [20, 32])
def test_a_budget_over_the_sequence_is_full_attention(num_keys: int):
    hip = build("mixer", "hip_attention", **HEADS, num_keys=num_keys, window=2, sinks=1)
    full, x = attention(), activations(20)
    full.load_state_dict(hip.state_dict())
    assert_equal(output(hip, x), output(full, x))


def chosen(scores: torch.Tensor, count: int) -> set[int]:
    """What one query with these products [S] chooses."""
    k = scores.double().view(1, -1, 1, 1)
    q, asking = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([len(scores) - 1])
    places, seen = tree_select(q, k, asking, count, None)
    return set(places[seen].tolist())


@pytest.mark.parametrize("count", [4, 8])
def test_monotone_scores_give_the_true_largest(count: int):
    """Falling scores: the first key of a span is its largest, so the search keeps what it should."""
    assert chosen(-torch.arange(50), count) == set(range(count))


def test_equal_scores_are_settled_by_place():
    assert chosen(torch.zeros(50), 4) == chosen(torch.zeros(50), 4)
    assert len(chosen(torch.zeros(50), 4)) == 4


def test_the_choice_is_without_repetition_and_of_full_size():
    for S in (1, 7, 8, 9, 31, 64, 100):
        assert len(chosen(torch.randn(S), 8)) == min(S, 8)


def test_rounds_end_at_single_tokens():
    for S in range(1, 200):
        longest = -(-S // 8)
        for _ in range(num_rounds(S, 8)):
            longest = -(-longest // 2)
        assert longest == 1


def test_the_window_and_the_sinks_are_always_seen():
    hip, x = build("mixer", "hip_attention", **HEADS, num_keys=2, window=3, sinks=2), activations(40)
    values = hip.v_proj(x).detach().requires_grad_()
    hip.v_proj.forward = lambda _: values
    (gradient,) = torch.autograd.grad(output(hip, x, Tokens())[:, 39].sum(), values)
    reached = gradient.unflatten(2, (2, 4)).any(-1)  # [B, S, G]
    assert reached[:, [0, 1, 37, 38, 39]].all()
    assert (reached.sum(1) <= 2 + 3 + 2).all()
