"""Decoding token by token computes what one forward pass computes, with the state size that the entry declares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract
from searchspace.model import Model
from searchspace.primitives import caches
from searchspace.spec.workload import DTYPE_BYTES

T = 40


def network_of(case: Case) -> Model:
    model = Model(cases.network(case)).eval()
    cases.randomize(model)
    return model


@torch.no_grad()
def decoded(model: Model, ids: Tensor, chunks: list[int]) -> Tensor:
    """Return the logits [B, T, W] of ids [B, T], passed to the model in pieces of these lengths."""
    state, logits, start = model.init_state(len(ids)), [], 0
    for length in chunks:
        y, state = model(ids[:, start : start + length], state=state)
        logits.append(y)
        start += length
    return torch.cat(logits, 1)


@contract(causal=True)
@torch.no_grad()
def prefill_then_token_by_token_equals_one_forward(case: Case) -> None:
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    whole = model(ids)[0]
    for prefix, steps in ((0, T), (1, 9), (15, 9), (16, 9), (17, 9), (33, 7)):
        pieces = ([prefix] if prefix else []) + [1] * steps
        what = f"decoding after a prompt of {prefix} differs from one forward pass"
        assert_close(decoded(model, ids, pieces), whole[:, : prefix + steps], 1e-9, what)


@contract("mixer", causal=True)
@torch.no_grad()
def a_prompt_may_come_in_pieces(case: Case) -> None:
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    in_pieces = decoded(model, ids, [3, 20, 1, 16])
    assert_close(in_pieces, model(ids)[0], 1e-9, "a prompt in pieces differs from one forward pass")


@contract("mixer", causal=True)
@torch.no_grad()
def two_continuations_may_start_from_one_state(case: Case) -> None:
    """A step must not write into an existing state: neither the one it receives nor one that continues from it."""
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    _, state = model(ids[:, :20], state=model.init_state(len(ids)))
    kept = [(t, t.clone()) for t in tensors_in(state)]
    first, longer = model(ids[:, 20:21], state=state)
    _, other = model((ids[:, 20:23] + 1) % 16, state=state)
    again = model(ids[:, 20:21], state=state)[0]
    assert torch.equal(again, first), "a step from the same state gives something else the second time"
    whole = model(ids[:, :22])[0][:, 21:]
    after = model(ids[:, 21:22], state=longer)[0]
    assert_close(after, whole, 1e-9, "a second continuation changes the first")
    del other  # must stay alive until here
    assert all(torch.equal(t, before) for t, before in kept), "a step writes into the state that it is given"


@contract("mixer", causal=True)
@torch.no_grad()
def state_bytes_are_the_bytes_held(case: Case) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        module: Any = case.build().to(dtype)
        size = DTYPE_BYTES[str(dtype).removeprefix("torch.")]
        for n in (1, 2, 15, 16, 17, 40, 63, 64, 65, 80):  # around the window sizes
            x, facts = cases.inputs(case, n, batch_size=1)
            state = module.init_state(1, x.device, dtype) if hasattr(module, "init_state") else None
            _, state = module(x.to(dtype), facts, state)
            bytes_held = sum(t.nbytes for t in tensors_in(state))
            said = case.entry.state_bytes(module, n, size)
            for t in tensors_in(state):
                rows = caches.capacity(t)
                assert rows <= 2 * caches.room(t.shape[1]), f"{t.shape[1]} rows stay in a buffer for {rows}"
                in_memory = t.untyped_storage().nbytes() * t.shape[1]
                assert in_memory == t.nbytes * rows, "more stays in memory than rows and room"
            assert said == bytes_held, f"after {n} tokens in {dtype} {bytes_held} bytes are held, not {said}"


def tensors_in(state: Any) -> list[Tensor]:
    """Return all tensors, each [B, ...], of a nested state."""
    if isinstance(state, Tensor):
        return [state]
    return [t for value in state.values() for t in tensors_in(value)] if isinstance(state, dict) else []
