"""One decoding step as an ONNX file: maps a token and the decoding state to logits and the next state.

    input_ids [B, 1], past_length, past.*  ->  logits [B, 1, W], present.*

`past_length` is the number of previous tokens. The state consists of keys and values, whose length is dynamic, or of
the state of a recurrence; `present.X` of a step is `past.X` of the next. Before the first token `past_length` and all
dynamic lengths are 0, and the state is 0 or, under the name `past.X`, in decode.safetensors for a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nas.errors import UsageError
from nas.export.graph import culprit
from nas.export.onnx_file import save, session
from searchspace.model import Model
from searchspace.primitives.context import State

LENGTH = "past_length"
TRACED = (
    37,
    41,
)  # tokens before the traced step, and before a second one that shows which lengths are dynamic
BATCHES = (2, 3)
FEWEST = 8

Path_ = tuple[str, ...]
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kept:
    """One entry of a network's decoding state: a tensor, the number of tokens so far, or a constant number.

    `first` is its value before the first token, `traced` its value in the traced step, `free` the axes that grow.
    """

    path: Path_
    first: Any
    traced: Any
    free: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.traced, Tensor)


def write_decoding(model: Model, ids: Tensor, path: Path) -> Callable[[], Step]:
    """Save one decoding step of `model`, traced on the text ids [1, T].

    Returns a function that starts a new text in onnxruntime: it returns a step that maps the next tokens [B, 1] to
    logits [B, 1, W]. Raises UsageError naming the operator that can't be exported as such a step.
    """
    kept = _kept(model, ids)
    tensors = [k for k in kept if k.is_tensor]
    batch, free = torch.export.Dim("batch"), torch.export.Dim.DYNAMIC
    shapes = [{0: batch} | dict.fromkeys(k.free, free) for k in tensors]
    args = (ids[:, :1].repeat(BATCHES[1], 1), _length(kept), [k.traced for k in tensors])
    try:
        with torch.no_grad():
            program = torch.export.export(
                _Step(model, kept).eval(),
                args,
                dynamic_shapes=({0: batch}, free, shapes),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # operators may fail in any way on a symbolic number of tokens
        raise UsageError(
            f"{culprit(model, error)} computes with the number of tokens as a plain number"
        ) from error
    inputs = ("input_ids", LENGTH, *(f"past.{k.name}" for k in tensors))
    outputs = ("logits", *(f"present.{k.name}" for k in tensors))
    save(program, args, inputs, outputs, path)
    starts = {f"past.{k.name}": k.first[:1].contiguous() for k in tensors if k.first.any()}
    if starts:
        save_file(starts, path.with_suffix(".safetensors"))
    file = session(path)
    return lambda: _started(file, tensors)


class _Step(nn.Module):
    def __init__(self, model: Model, kept: list[Kept]) -> None:
        super().__init__()
        self.model, self.kept = model, kept

    def forward(self, input_ids: Tensor, past_length: int, past: list[Tensor]) -> tuple[Tensor, ...]:
        given, state = iter(past), dict[str, Any]()
        for k in self.kept:
            place = state
            for name in k.path[:-1]:
                place = place.setdefault(name, {})
            counts = not k.is_tensor and k.first != k.traced
            place[k.path[-1]] = next(given) if k.is_tensor else past_length if counts else k.traced
        logits, state = self.model(input_ids, state=state)
        after = dict(_leaves(state))
        return (logits, *(after[k.path] for k in self.kept if k.is_tensor))


def _leaves(state: State, path: Path_ = ()) -> list[tuple[Path_, Any]]:
    found: list[tuple[Path_, Any]] = []
    for name, value in state.items():
        here = (*path, name)
        found += _leaves(value, here) if isinstance(value, dict) else [(here, value)]
    return found


def _length(kept: list[Kept]) -> int:
    return next(int(k.traced) for k in kept if k.path == ("num_tokens",))


@torch.no_grad()
def _kept(model: Model, ids: Tensor) -> list[Kept]:
    longest = min(model.arch.stem["max_len"], ids.shape[1]) - 1
    n, later = (min(count, longest - 1 + i) for i, count in enumerate(TRACED))
    if n < FEWEST:
        raise UsageError(f"a text of {longest + 1} tokens is too short to trace the network's decoding state")
    first, one, other, more = (
        dict(_leaves(_state(model, ids, B, count)))
        for B, count in ((BATCHES[1], 0), (BATCHES[0], n), (BATCHES[1], n), (BATCHES[1], later))
    )
    found = []
    for path in other:
        found.append(_seen(model, path, n, later, *(s.get(path) for s in (first, one, other, more))))
    for path in first:
        if path not in other:
            raise UsageError(
                f"{_owner(model, path)} has a decoding state whose entries change with the length"
            )
    return found


def _state(model: Model, ids: Tensor, batch_size: int, count: int) -> State:
    state = model.init_state(batch_size)
    if not count:
        return state
    kept = model(ids[:, :count].repeat(batch_size, 1), state=state)[1]
    without_room: State = tree_map_only(
        Tensor, Tensor.contiguous, kept
    )  # drops preallocated memory behind the rows
    return without_room


def _seen(model: Model, path: Path_, n: int, later: int, first: Any, one: Any, other: Any, more: Any) -> Kept:
    """The entry at `path` from its values: before the first token, after n tokens (batches of 2, 3), after `later`.

    Raises UsageError if the entry is neither a tensor per text, the number of tokens nor a constant.
    """
    if type(first) is not type(other):
        raise UsageError(f"{_owner(model, path)} has a decoding state whose entries change with the length")
    if not isinstance(other, Tensor):
        if not isinstance(other, int) or (first, other, more) not in ((0, n, later), (other, other, other)):
            raise UsageError(f"{_owner(model, path)} keeps a number that is not the number of tokens")
        return Kept(path, first, other)
    if not other.dim() or (one.shape[0], other.shape[0]) != BATCHES:
        raise UsageError(f"{_owner(model, path)} keeps a tensor without an axis for the texts of a batch")
    axes = range(1, other.dim())
    free = tuple(i for i in axes if len({t.shape[i] for t in (first, other, more)}) > 1)
    return Kept(path, first, other, free)


def _owner(model: Model, path: Path_) -> str:
    """The operator whose state has an entry at `path`, for error messages."""
    place, *rest = path
    kind, _, index = place.partition("@")[0].partition(".")
    if kind == "blocks" and rest:
        slot = rest[0] if rest[0] in ("mixer", "ffn") else "norm"
        return f"the {slot} {getattr(model.arch.blocks[int(index)], slot).op} of block {index}"
    return f"the transition of {place}"


def _started(file: Any, kept: list[Kept]) -> Step:
    """A step function for a new text in onnxruntime, which holds the decoding state."""
    past: dict[str, Any] = {}
    length = 0

    def step(ids: Tensor) -> Tensor:
        nonlocal length
        if not length:
            past.update(
                {f"past.{k.name}": k.first[:1].expand(len(ids), *k.first.shape[1:]).numpy() for k in kept}
            )
        feeds = {"input_ids": ids.numpy(), LENGTH: np.array(length)}
        try:
            logits, *present = file.run(None, feeds | past)
        except Exception as error:  # its errors have no common base
            raise UsageError(f"onnxruntime fails at token {length}: {error}") from error
        past.update(zip(past, present, strict=True))
        length += 1
        return torch.from_numpy(logits)

    return step
