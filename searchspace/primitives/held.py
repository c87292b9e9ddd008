"""The `state_bytes` of entries, counted from the state that a module starts a sequence with.

Tensors [B, 0, ...] of that state get a row for each token that is kept; the others are as large as they will ever be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


def tokens(num_kept: Callable[[Any, int], int]) -> Callable[[Any, int, int], int]:
    """For a module that keeps rows of num_kept(module, tokens seen) tokens."""

    def state_bytes(module: Any, context_len: int, bytes_per_value: int) -> int:
        return _bytes(first_state(module, bytes_per_value), num_kept(module, context_len))

    return state_bytes


every_token = tokens(lambda module, context_len: context_len)
fixed = tokens(lambda module, context_len: 0)


def first_state(module: Any, bytes_per_value: int) -> Any:
    """Of one sequence, without storage where the module has none."""
    device = next((tensor.device for tensor in module.parameters()), torch.device("meta"))
    return module.init_state(1, device, DTYPES[bytes_per_value])


def _bytes(state: Any, num_rows: int) -> int:
    if isinstance(state, dict):
        return sum(_bytes(value, num_rows) for value in state.values())
    if not isinstance(state, Tensor):
        return 0
    batch, rows, *row = state.shape
    return batch * (rows or num_rows) * math.prod(row) * state.itemsize
