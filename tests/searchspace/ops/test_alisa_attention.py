"""ALISA: full attention, or a window, where nothing or only the old may go; otherwise what was looked at stays."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace.contracts.cases import CAUSAL
from searchspace.primitives.context import Tokens
from searchspace.primitives.scores import fused_attention
from searchspace.spec.arch import OpSpec
from searchspace.validity import why_op_invalid
from tests.searchspace.ops.identities import HEADS, activations, assert_equal, attention, build, output

DEFINING_TERM = ("worth.argmin(-1)", "(-worth).argmin(-1)")


def alisa(keep_ratio: float = 0.4, local_share: float = 0.5, window: int = 3) -> Any:
    return build(
        "mixer", "alisa_attention", **HEADS, keep_ratio=keep_ratio, local_share=local_share, window=window
    )


@torch.no_grad()
def steps(module: Any, x: Tensor, valid: Tensor | None = None) -> list[tuple[Tensor, dict[str, Any]]]:
    """The output and the state after each token."""
    state, found = module.init_state(len(x), x.device, x.dtype), []
    for t in range(x.shape[1]):
        facts = Tokens(valid=None if valid is None else valid[:, t : t + 1])
        y, state = module(x[:, t : t + 1], facts, state)
        found.append((y, state))
    return found


def seen_by(module: Any, x: Tensor) -> Tensor:
    """[B, G, T, T]"""
    q, k, _ = module.rotated(x, Tokens())
    state = module.init_state(len(x), x.device, x.dtype)
    history = torch.full((*x.shape[:2], module.G, module.window, 1), -1.0, dtype=x.dtype)
    return module.selected(q, k, history, None, state["num_real"])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_kept_is_full_attention_to_the_last_bit(dtype: torch.dtype):
    module, full, x = alisa(keep_ratio=1.0).to(dtype), attention().to(dtype), activations(40).to(dtype)
    full.load_state_dict(module.state_dict())
    assert torch.equal(output(module, x), output(full, x))
    for (ours, _), (theirs, _) in zip(steps(module, x), steps(full, x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("keep_ratio", [0.1, 0.3, 0.5])
def test_only_the_latest_kept_is_a_window_that_grows_with_the_sequence(keep_ratio: float):
    module, x = alisa(keep_ratio, local_share=1.0), activations(41)
    places = torch.arange(41)
    reach = torch.tensor([math.ceil(round(keep_ratio * i, 6)) for i in range(41)])
    visible = (places <= places[:, None]) & (places[:, None] - places <= reach[:, None])
    q, k, v = (t.transpose(1, 2) for t in module.rotated_per_head(x, Tokens()))
    assert_equal(output(module, x), module.merge_heads(fused_attention(q, k, v, visible).transpose(1, 2)))


@pytest.mark.parametrize("keep_ratio", [0.1, 0.4, 0.7, 1.0])
def test_no_more_than_its_share_of_the_tokens_is_ever_held(keep_ratio: float):
    for n, (_, state) in enumerate(steps(alisa(keep_ratio), activations(30)), 1):
        budget = math.ceil(round(keep_ratio * n, 6))
        assert {state[name].shape[1] for name in ("k", "v", "history")} == {budget}


def test_what_was_deleted_never_comes_back_and_the_latest_are_always_seen():
    for local_share in (0.25, 0.5, 0.75):
        module = alisa(0.4, local_share)
        seen = seen_by(module, activations(50))
        assert (
            not (seen[:, :, 1:] & ~seen[:, :, :-1]).any(-1).sum(-1).sub(49).any()
        )  # each time one: the new token
        for i in range(50):
            latest = module.num_latest(module.num_kept(i))
            assert seen[:, :, i, i - latest : i + 1].all()
            assert (seen[:, :, i].sum(-1) == module.num_kept(i) + 1).all()


def test_a_key_that_every_query_looks_at_outlives_the_others():
    module, x = alisa(0.5, 0.5), activations(50)
    with torch.no_grad():
        for weight in (module.q_proj.weight, module.k_proj.weight):
            weight.zero_()[:, 0] = 5.0
    x[..., 0] = torch.where(torch.arange(50) == 2, 4.0, 0.1)
    seen = seen_by(module, x)
    assert seen[:, :, 2:, 2].all()
    assert not seen[:, :, 20:, [0, 1, 3, 4, 5]].any()


def test_the_old_are_not_favoured_for_having_been_seen_by_more_queries():
    """Row 0 got 0.3 from each of three queries, row 1 got 0.5 from the one that it saw: sums say otherwise."""
    past = torch.tensor([[0.3, 0.3, 0.3], [-1.0, -1.0, 0.5], [-1.0, -1.0, 0.2]]).view(1, 1, 3, 3)
    alive = torch.ones(1, 1, 3, dtype=torch.bool)
    for kept, gone in ((3, [False, False, False]), (2, [True, False, False])):
        found = alisa().evicted(alive, past, torch.tensor([kept]), torch.tensor([1]))
        assert found.flatten().tolist() == gone


def test_a_batch_padded_on_the_left_decodes_as_its_sequences_do_alone():
    module, x, lengths = alisa(0.4), activations(30), (30, 23)
    valid = torch.arange(30) >= 30 - torch.tensor(lengths).unsqueeze(1)
    together = steps(module, x, valid)
    for b, length in enumerate(lengths):
        alone = steps(module, x[b : b + 1, 30 - length :])
        for (y, _), (expected, _) in zip(together[30 - length :], alone, strict=True):
            assert_equal(y[b : b + 1], expected)


@pytest.mark.parametrize(
    ("item", "value"), [("keep_ratio", 0.0), ("keep_ratio", 1.5), ("local_share", -0.5), ("window", 0)]
)
def test_a_share_that_is_none_is_refused_in_a_sentence(item: str, value: float):
    items = {**HEADS, "keep_ratio": 0.5, "local_share": 0.5, "window": 8, item: value}
    reason = why_op_invalid("mixer", OpSpec.of("alisa_attention", **items), CAUSAL)
    assert reason is not None
    assert reason.startswith(f"alisa_attention: {item} = {value} must be")
