"""The `state_bytes` of entries, derived from the state with which a module starts a sequence.

Tensors [B, 0, ...] of that state get a row for each kept token; the size of other tensors never changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searchspace.primitives.stored_state import in_few_bits, stored_bytes
from searchspace.spec.arch import Format

DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
Rows = int | Mapping[str, int]


@dataclass(frozen=True)
class StateSize:
    """num_kept(module, tokens seen) is the number of tokens with rows, one for all tensors or one per tensor name."""

    num_kept: Callable[[Any, int], Rows] | None = None

    def __call__(self, module: Any, context_len: int, bytes_per_value: int, fmt: Format = Format()) -> int:
        rows = 0 if self.num_kept is None else self.num_kept(module, context_len)
        return _bytes(first_state(module, bytes_per_value), "", rows, fmt)


tokens = StateSize
every_token = StateSize(lambda module, context_len: context_len)
fixed = StateSize()


def keeps_rows(state_bytes: Callable[..., int]) -> bool:
    """Return whether this `state_bytes` of an entry counts rows of tokens, which may be stored in few bits."""
    return isinstance(state_bytes, StateSize) and state_bytes.num_kept is not None


def first_state(module: Any, bytes_per_value: int) -> Any:
    """Return the first state of one sequence, without storage where the module has none."""
    device = next((tensor.device for tensor in module.parameters()), torch.device("meta"))
    return module.init_state(1, device, DTYPES[bytes_per_value])


def _bytes(state: Any, name: str, rows: Rows, fmt: Format) -> int:
    if isinstance(state, dict):
        return sum(_bytes(value, name, rows, fmt) for name, value in state.items())
    if not isinstance(state, Tensor):
        return 0
    batch, count, *row = state.shape
    if not count:
        count = rows if isinstance(rows, int) else rows[name]
    if fmt != Format() and in_few_bits(state):
        return stored_bytes(count, batch * math.prod(row[:-1]), row[-1], fmt)
    return batch * count * math.prod(row) * state.itemsize
