"""Rows of tokens that a decoder keeps, in memory with room behind them: a new token is written there.

`append` gives what `torch.cat` gives, a tensor of the rows in use. What it returns is a part of a larger buffer; when
that is full, the rows move to one with room for half as many more, so that on the mean a row is copied three times at
most, however long the text gets. A state is still a value: whoever continues one of which a longer continuation is in
use gets a copy of the rows, so two texts may go on from one prompt. In use is what some variable holds; a continuation
that was dropped gives its rows free. Only a tensor that `append` or `latest` returned counts as holding rows: a slice
of one that is to outlive it has to be copied.

Rows of less than SMALL bytes have no room and are copied at each token. Counted as bytes of a state are the rows in
use; the buffer that they lie in has at most twice `room(rows)` of them.
Where gradients are taken, and in a traced graph, nothing is written in place: there `append` is `torch.cat`.

A state with `max_len` is another thing: rows have their final shape from the start, the number of tokens is a tensor,
and a step writes into the state that it is given. All steps are the same operations on the same memory, so one may be
captured, as a CUDA graph is, and replayed; each looks at max_len keys, the later ones hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor

LEAST = 16  # rows of room
SMALL = 2**17  # bytes that are copied sooner than a buffer of them is looked after


# Tensors that are in use by their identity, which buffer they are of, and from which row to which.
_known: dict[int, tuple[ref[Tensor], _Buffer, int, int]] = {}


@dataclass(eq=False)
class _Buffer:
    """Rows [B, C, ...]; `ends` says of each tensor in use, by its identity, behind which row it ends."""

    rows: Tensor
    ends: dict[int, int] = field(default_factory=dict)

    def can_take(self, end: int, count: int) -> bool:
        """Whether `count` rows may be written behind `end`: there is room that nobody holds, and writing is allowed."""
        writable = torch.is_inference_mode_enabled() or not self.rows.is_inference()
        return writable and end + count <= self.rows.shape[1] and max(self.ends.values(), default=0) <= end

    def part(self, start: int, end: int) -> Tensor:
        """The rows start .. end - 1, in use as long as the tensor is."""
        found = self.rows.narrow(1, start, end - start)
        key = id(found)

        def forget(_: object, known: dict[int, Any] = _known, ends: dict[int, int] = self.ends) -> None:
            del known[key], ends[key]

        _known[key], self.ends[key] = (ref(found, forget), self, start, end), end
        return found


def room(count: int) -> int:
    """Rows of a buffer that is made for `count` of them."""
    return count + max(LEAST, count // 2)


def capacity(rows: Tensor) -> int:
    """Rows of the buffer that rows [B, S, ...] lie in, S where `append` did not make one."""
    known = _known.get(id(rows))
    return rows.shape[1] if known is None else known[1].rows.shape[1]


def append(kept: Tensor, new: Tensor) -> Tensor:
    """kept [B, S, ...] with new [B, T, ...] behind it: [B, S + T, ...]."""
    if torch.compiler.is_compiling():  # first: to compare sizes would fix them in the graph
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
    """The places [count] of tokens behind `start` others; a number of tokens that is a tensor is not waited for."""
    if isinstance(start, Tensor):
        return torch.arange(count, device=device) + start
    return torch.arange(start, start + count, device=device)


def has_fixed_shapes(state: Any) -> bool:
    """Whether a state before the first token holds nothing but tensors that are as large as they will ever be."""
    if isinstance(state, dict):
        return all(map(has_fixed_shapes, state.values()))
    return isinstance(state, Tensor) and state.shape[1] > 0


def with_max_len(state: Any, max_len: int, device: torch.device) -> Any:
    """A state before the first token with rows [B, 0, ...] as max_len rows of 0, and numbers as tensors []."""
    if isinstance(state, dict):
        return {name: with_max_len(value, max_len, device) for name, value in state.items()}
    if not isinstance(state, Tensor):
        return torch.tensor(state, device=device)
    return state if state.shape[1] else state.new_zeros(len(state), max_len, *state.shape[2:])


def latest(rows: Tensor, count: int) -> Tensor:
    """The last `count` of rows [B, S, ...]: where they are, or a copy where much else would stay in memory."""
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
