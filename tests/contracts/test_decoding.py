"""Decoding token by token computes what one forward pass computes, and holds as many bytes as the entry says."""

from typing import Any

import pytest
import torch
from torch import Tensor

from searchspace.model import Model
from searchspace.spec.workload import DTYPE_BYTES
from tests.contracts import cases
from tests.contracts.cases import Case

T = 40


def network_of(case: Case) -> Model:
    model = Model(cases.network(case)).eval()
    cases.randomize(model)
    return model


@torch.no_grad()
def decoded(model: Model, ids: Tensor, chunks: list[int]) -> Tensor:
    """Logits of all tokens, given to the model in pieces of these lengths."""
    state, logits, start = model.init_state(len(ids)), [], 0
    for length in chunks:
        y, state = model(ids[:, start : start + length], state=state)
        logits.append(y)
        start += length
    return torch.cat(logits, 1)


@pytest.mark.parametrize("case", cases.quick(causal=True))
def test_prefill_then_token_by_token_equals_one_forward(case: Case):
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    with torch.no_grad():
        whole = model(ids)[0]
    for prefix in (0, 1, 15, 16, 17, 33):
        pieces = ([prefix] if prefix else []) + [1] * (T - prefix)
        torch.testing.assert_close(decoded(model, ids, pieces), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", cases.quick("mixer", causal=True))
def test_a_prompt_may_come_in_pieces(case: Case):
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    with torch.no_grad():
        whole = model(ids)[0]
    torch.testing.assert_close(decoded(model, ids, [3, 20, 1, 16]), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", cases.quick("mixer", causal=True))
@torch.no_grad()
def test_two_continuations_may_start_from_one_state(case: Case):
    """A step never writes into the state that it is given."""
    model = network_of(case)
    ids = cases.network_inputs(model.arch, T)
    _, state = model(ids[:, :20], state=model.init_state(len(ids)))
    kept = {id(t): t.clone() for t in held(state)}
    first = model(ids[:, 20:21], state=state)[0]
    model((ids[:, 20:23] + 1) % 16, state=state)
    assert torch.equal(model(ids[:, 20:21], state=state)[0], first)
    assert all(torch.equal(t, kept[id(t)]) for t in held(state))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", cases.quick("mixer", causal=True))
@torch.no_grad()
def test_state_bytes_are_the_bytes_held(case: Case, dtype: torch.dtype):
    module: Any = case.build().to(dtype)
    size = DTYPE_BYTES[str(dtype).removeprefix("torch.")]
    for n in (1, 2, 15, 16, 17, 40, 63, 64, 65, 80):  # around the windows
        x, facts = cases.inputs(case, n, batch_size=1)
        state = module.init_state(1, x.device, dtype) if hasattr(module, "init_state") else None
        _, state = module(x.to(dtype), facts, state)
        bytes_held = sum(t.untyped_storage().nbytes() for t in held(state))
        assert case.entry.state_bytes(module, n, size) == bytes_held


def held(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [t for value in state.values() for t in held(value)] if isinstance(state, dict) else []
