"""Rows with room behind them: the same numbers as torch.cat, one place in memory, and states that stay values."""

from __future__ import annotations

import copy
import gc
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from predictors.network_bench import network_call
from searchspace.model import Model
from searchspace.primitives import caches, masks, scores
from searchspace.primitives.caches import append, capacity, latest, room
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention
from searchspace.spec.workload import Workload

T = 70  # beyond the room of a first buffer
ATTENTION = plain_attention(2, 2, 8)
LATENT = OpSpec.of("latent_attention", num_heads=2, head_dim=16, kv_rank=16, query_rank=16, rope_dim=8)


def with_items(spec: OpSpec, **items: Any) -> OpSpec:
    return OpSpec.of(spec.op, **dict(spec.items) | items)


MIXERS = {
    "grouped": (ATTENTION,),
    "window": (with_items(ATTENTION, window=16),),
    "window and sinks": (with_items(ATTENTION, window=16, sinks=4),),
    "shared": (ATTENTION, with_items(ATTENTION, keys="earlier")),
    "latent": (LATENT,),
    "strided": (
        OpSpec.of("strided_attention", num_groups=2, heads_per_group=1, head_dim=8, window=32, stride=2),
    ),
    "block local": (
        OpSpec.of("block_local_attention", num_groups=2, heads_per_group=1, head_dim=8, window=16),
    ),
}


@pytest.fixture(autouse=True)
def buffers_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "SMALL", 0)


def network(*mixers: OpSpec) -> Model:
    blocks = tuple(BlockSpec(mixer=mixer, norm=OpSpec("rmsnorm")) for mixer in mixers)
    torch.manual_seed(0)
    arch = ArchSpec(
        task="causal_lm",
        stem=OpSpec.of("token_embedding", vocab_size=16, max_len=128),
        d_model=16,
        blocks=blocks,
        stages=(StageSpec(len(blocks), 16),),
        head=OpSpec.of("lm_head", vocab_size=16),
    )
    return Model(arch).eval()


def decoded(model: Model, ids: Tensor) -> Tensor:
    state, logits = model.init_state(len(ids)), []
    for piece in ids.split([9] + [1] * (ids.shape[1] - 9), 1):
        y, state = model(piece, state=state)
        logits.append(y)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("name", MIXERS)
@torch.no_grad()
def test_decoding_gives_every_bit_of_caches_that_are_copied_at_each_token(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = network(*MIXERS[name]), torch.randint(16, (2, T), generator=torch.Generator().manual_seed(1))
    with_room = decoded(model, ids)
    for module in (scores, masks, sys.modules[type(model.part("blocks.0").mixer).__module__]):
        if hasattr(module, "append"):
            monkeypatch.setattr(module, "append", lambda kept, new: torch.cat((kept, new), 1))
    assert torch.equal(with_room, decoded(model, ids))


def rows(count: int, first: float = 0.0) -> Tensor:
    return first + torch.arange(count, dtype=torch.float32)[None, :, None].expand(2, count, 3)


def test_rows_are_copied_three_times_at_most() -> None:
    held, moved = append(torch.empty(2, 0, 3), rows(1)), 0
    for i in range(1, 2000):
        before = held
        held = append(before, rows(1, i))
        moved += 0 if held.data_ptr() == before.data_ptr() else len(before[0])
        del before
    assert torch.equal(held, rows(2000))
    assert capacity(held) <= room(2000)
    assert moved <= 3 * 2000  # the sum of 2000, 2000 / 1.5, 2000 / 1.5^2, ...


def test_two_continuations_in_use_do_not_write_over_each_other() -> None:
    start = append(torch.empty(2, 0, 3), rows(5))
    first = append(start, rows(1, 10))
    longer = append(first, rows(1, 11))
    del first  # the longer one still shows its row
    second = append(start, rows(1, 20))
    assert longer[0, :, 0].tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert second[0, :, 0].tolist() == [0, 1, 2, 3, 4, 20]
    del longer
    place = append(start, rows(1, 30)).data_ptr()
    assert place == start.data_ptr(), "the rows behind a dropped continuation are free again"
    assert start[0, :, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_window_slides_through_its_buffer_and_holds_no_long_prompt() -> None:
    held = latest(append(torch.empty(2, 0, 3), rows(500)), 15)
    assert held.untyped_storage().nbytes() == held.nbytes, "a prompt stays in memory behind its window"
    for i in range(500, 600):
        held = latest(append(held, rows(1, i)), 15)
        assert held[0, :, 0].tolist() == list(range(i - 14, i + 1))
        assert capacity(held) <= 2 * room(15)


def test_what_append_did_not_make_is_never_written_to() -> None:
    theirs = torch.zeros(2, 8, 3)
    given = theirs[:, :4]
    assert append(given, rows(1, 7))[0, 4, 0] == 7
    assert not theirs.any()
    with torch.inference_mode():
        prompt = append(torch.empty(2, 0, 3), rows(4))
    assert (
        append(prompt, rows(1, 7))[0, 4, 0] == 7
    )  # a tensor of inference mode may not be written to outside it


def test_gradients_reach_kept_rows() -> None:
    kept, new = torch.ones(1, 2, 3, requires_grad=True), torch.ones(1, 1, 3, requires_grad=True)
    of_kept, of_new = torch.autograd.grad(append(kept, new).sum(), (kept, new))
    assert torch.equal(of_kept, torch.ones(1, 2, 3))
    assert torch.equal(of_new, torch.ones(1, 1, 3))


def test_a_timed_step_writes_one_row_and_moves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed as decoding is a step with room, each time from the same number of tokens."""
    sizes: list[tuple[bool, int]] = []

    def seen(kept: Tensor, new: Tensor) -> Tensor:
        found = caches.append(kept, new)
        sizes.append((found.data_ptr() == kept.data_ptr(), found.shape[1]))
        return found

    call = network_call(network(ATTENTION), Workload("decode", context_len=40), "cpu")
    monkeypatch.setattr(scores, "append", seen)
    gc.disable()  # as while something is timed: a result that only a collection frees would be in use
    try:
        with torch.inference_mode():
            for _ in range(3):
                call()
    finally:
        gc.enable()
    assert sizes == [(True, 41)] * 6


FIXED = {
    **{name: MIXERS[name] for name in ("grouped", "window and sinks", "shared", "latent")},
    "recurrent": (
        OpSpec.of("gated_deltanet", num_groups=2, heads_per_group=1, head_dim=8, conv_taps=4, beta_max=1),
    ),
}


class Step(torch.nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, state: Any) -> Any:
        return self.model(token, state=state)


@pytest.mark.parametrize("name", FIXED)
@torch.no_grad()
def test_with_max_len_one_captured_step_decodes_every_token(name: str) -> None:
    """The step is traced once, at one number of tokens, with every shape and number in it fixed."""
    model = network(*FIXED[name]).double()
    ids = torch.randint(16, (2, 24), generator=torch.Generator().manual_seed(1))
    expected, first = decoded(model, ids), model.init_state(2, max_len=32)
    _, state = model(ids[:, :9], state=first)
    moved = [a for a, b in zip(tensors(first), tensors(state), strict=True) if a.data_ptr() != b.data_ptr()]
    assert all(t.dim() == 0 or t.shape[1] < 32 for t in moved), "rows are written where they lie"
    step = torch.export.export(Step(model), (ids[:, 9:10], copy.deepcopy(state))).module()
    for i in range(9, 24):
        logits, after = step(ids[:, i : i + 1], state)
        torch.testing.assert_close(logits[:, 0], expected[:, i], rtol=1e-9, atol=1e-9)
        for held, new in zip(tensors(state), tensors(after), strict=True):
            held.copy_(new)  # a captured step reads where it read before


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for name in sorted(state) for t in tensors(state[name])]
    return [state]


def test_what_has_no_fixed_shape_and_what_is_too_long_are_named() -> None:
    with pytest.raises(ValueError, match=r"max_len=32.*strided_attention.*without max_len"):
        network(*MIXERS["strided"]).init_state(1, max_len=32)
    model = network(ATTENTION)
    state = model.init_state(1, max_len=32)
    with pytest.raises(ValueError, match="padding"):
        model(torch.zeros(1, 2, dtype=torch.long), Tokens(valid=torch.tensor([[False, True]])), state)
