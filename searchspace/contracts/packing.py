"""Packed sequences give the same outputs as padded ones, or the network refuses them in a sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.contracts.contract import assert_close, contract
from searchspace.model import Model, why_not_packed
from searchspace.primitives.context import Tokens
from searchspace.validity import why_invalid

OFFSETS = (0, 5, 6, 6, 23, 39)  # sequences of 5, 1, 0, 17 and 16 tokens


@contract()
def packed_sequences_equal_padded_ones(case: Case) -> None:
    """Norms are tested in training mode too, where they count the tokens of the batch."""
    arch = cases.network(case, on_text=True)
    if why_invalid(arch) is not None:
        return  # it needs a grid, and images of one size need no packing
    model = Model(arch).train(case.slot == "norm")
    cases.randomize(model)
    ends = torch.tensor(OFFSETS)
    valid = torch.arange(17) < ends.diff().unsqueeze(1)
    ids = torch.randint(0, 16, valid.shape)
    packed_ids, packed = ids[valid].unsqueeze(0), Tokens(offsets=OFFSETS)
    if why_not_packed(arch) is not None:
        assert is_refused(model, packed_ids, packed), "packed sequences are not refused"
        return
    with torch.no_grad():
        expected, padded_update = model(ids, Tokens(valid=valid))
    actual, update = model(packed_ids, packed)
    if expected.dim() == 3:
        expected = expected[valid].unsqueeze(0)
    assert_close(actual, expected, 1e-9, "outputs of packed sequences differ from those of padded ones")
    for part, values in flat(update).items():
        assert_close(values, flat(padded_update)[part], 1e-9, f"packed, the statistic {part} differs")
    leaves = list(model.parameters())
    gradients = torch.autograd.grad(actual.sum(), leaves, allow_unused=True, materialize_grads=True)
    assert all(g.isfinite().all() for g in gradients), "a gradient through packed sequences is not finite"


def is_refused(model: Model, ids: Tensor, packed: Tokens) -> bool:
    """Return whether the model raises ValueError for packed ids [1, T]."""
    try:
        model(ids, packed)
    except ValueError:
        return True
    return False


def flat(state: dict[str, Any], path: str = "") -> dict[str, Tensor]:
    """Return the tensors, each [B, ...], of a nested state by dotted path."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return found
