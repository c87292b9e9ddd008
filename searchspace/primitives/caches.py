"""Decoder caches: rows of tokens in a buffer with spare room, so that a new token is written in place.

`append` returns what `torch.cat` returns, the tensor of all rows, as a part of a larger buffer. When that is full, the
rows move to a buffer with room for half as many more, so that on average a row is copied at most three times for texts
of any length. A state is still a value: continuing a state while a longer continuation of it is in use copies its rows,
so two texts may continue one prompt. A tensor is in use as long as a variable holds it; dropping a continuation frees
its rows. Only tensors returned by `append` or `latest` count: a slice of one that should outlive it must be copied.

Rows of less than SMALL bytes have no room and are copied for each token. The bytes of a state count only rows in use;
their buffer has at most twice `room(rows)`. Under gradients and in a traced graph nothing is written in place: there
`append` is `torch.cat`.

A state with `max_len` is different: rows have their final shape from the start, the number of tokens is a tensor, and a
step writes into the state that it receives. All steps are the same operations on the same memory, so one may be
captured, as in a CUDA graph, and replayed; each computes with max_len keys, of which later ones are masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor

LEAST = 16  # rows of spare room
SMALL = 2**17  # bytes up to which copying is cheaper than managing a buffer


# Tensors in use by id: their buffer, first row and last row.
_known: dict[int, tuple[ref[Tensor], _Buffer, int, int]] = {}


@dataclass(eq=False)
class _Buffer:
    """Rows [B, C, ...]; `ends` maps the id of each tensor in use to the row after its last one."""

    rows: Tensor
    ends: dict[int, int] = field(default_factory=dict)

    def can_take(self, end: int, count: int) -> bool:
        """Whether `count` rows may be written from `end` on: there is unused room, and writing is allowed."""
        writable = torch.is_inference_mode_enabled() or not self.rows.is_inference()
        return writable and end + count <= self.rows.shape[1] and max(self.ends.values(), default=0) <= end

    def part(self, start: int, end: int) -> Tensor:
        """The rows start .. end - 1, in use for as long as the tensor exists."""
        found = self.rows.narrow(1, start, end - start)
        key = id(found)

        def forget(_: object, known: dict[int, Any] = _known, ends: dict[int, int] = self.ends) -> None:
            del known[key], ends[key]

        _known[key], self.ends[key] = (ref(found, forget), self, start, end), end
        return found


def room(count: int) -> int:
    """Return the number of rows of a buffer that is created for `count` of them."""
    return count + max(LEAST, count // 2)


def capacity(rows: Tensor) -> int:
    """Return the number of rows of the buffer of rows [B, S, ...]; S where `append` did not create one."""
    known = _known.get(id(rows))
    return rows.shape[1] if known is None else known[1].rows.shape[1]


def append(kept: Tensor, new: Tensor) -> Tensor:
    """Return kept [B, S, ...] followed by new [B, T, ...]: [B, S + T, ...]."""
    if torch.compiler.is_compiling():  # first, because comparing sizes would fix them in the graph
        return torch.cat((kept, new), 1)
    fits = kept.dtype == new.dtype and kept.shape[0] == new.shape[0] and kept.shape[2:] == new.shape[2:]
    takes_gradients = torch.is_grad_enabled() and (kept.requires_grad or new.requires_grad)
    known = _known.get(id(kept))
    is_small = known is None and kept.nbytes + new.nbytes < SMALL
    if is_small or takes_gradients or not fits:
        return torch.cat((kept, new), 1)
    count = new.shape[1]
    if known is not None and known[1].can_take(known[3], count):
        _, buffer, start, end = known
    else:
        start, end = 0, kept.shape[1]
        buffer = _Buffer(kept.new_empty(len(kept), room(end + count), *kept.shape[2:]))
        buffer.rows.narrow(1, 0, end).copy_(kept)
    found = buffer.part(start, end + count)
    buffer.rows.narrow(1, end, count).copy_(new)
    return found


def following(start: int | Tensor, count: int, device: torch.device) -> Tensor:
    """Return the places [count] of tokens after `start` others; a tensor `start` is not synchronized."""
    if isinstance(start, Tensor):
        return torch.arange(count, device=device) + start
    return torch.arange(start, start + count, device=device)


def has_fixed_shapes(state: Any) -> bool:
    """Return whether a state before the first token holds only tensors whose size never changes."""
    if isinstance(state, dict):
        return all(map(has_fixed_shapes, state.values()))
    return isinstance(state, Tensor) and state.shape[1] > 0


def with_max_len(state: Any, max_len: int, device: torch.device) -> Any:
    """Return a state before the first token with rows [B, 0, ...] as max_len rows of 0, and numbers as tensors []."""
    if isinstance(state, dict):
        return {name: with_max_len(value, max_len, device) for name, value in state.items()}
    if not isinstance(state, Tensor):
        return torch.tensor(state, device=device)
    return state if state.shape[1] else state.new_zeros(len(state), max_len, *state.shape[2:])


def latest(rows: Tensor, count: int) -> Tensor:
    """Return the last `count` of rows [B, S, ...] in place, or a copy where much unused memory would be kept."""
    left_out = rows.shape[1] - count
    if torch.compiler.is_compiling():
        return rows[:, left_out:].clone()
    if left_out == 0:
        return rows
    known = _known.get(id(rows))
    if known is None or known[1].rows.shape[1] > 2 * room(count):
        return rows[:, left_out:].clone()
    _, buffer, start, end = known
    return buffer.part(start + left_out, end)
