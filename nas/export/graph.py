"""A network as one graph, a torch.export program.

It maps `input_ids` [B, T], for an encoder of text also `attention_mask` [B, T] (1 at tokens, 0 at padding, names as in
the package transformers), or `pixel_values` [B, C, rows, columns] to one output, without a decoding state. The batch
size is dynamic. The length is too if the network computes the same graph for every length; otherwise it is fixed to
that of the examples, and shorter sequences are padded, for a causal network with any tokens.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import UsageError
from predictors.onnx_network import MASK, input_name, reads_both_sides
from searchspace.model import Block, Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec

Run = Callable[..., Tensor]  # arguments: inputs and, for an encoder of text, their mask or None
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Graph:
    """A traced network; `length` is its fixed sequence length, None if dynamic, and `reason` says why it is fixed.

    `unpadded` says why the graph of an encoder of text accepts no mask, and so no padding; it is "" for all others.
    """

    program: torch.export.ExportedProgram
    length: int | None
    reason: str
    inputs: tuple[str, ...]
    output: str
    unpadded: str = ""

    @property
    def takes_mask(self) -> bool:
        return MASK in self.inputs


class _Whole(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        valid = None if attention_mask is None else attention_mask != 0
        outputs: Tensor = self.model(inputs, Tokens(valid=valid))[0]
        return outputs


def output_name(arch: ArchSpec) -> str:
    """The name of the graph's output; for embeddings the name that sentence-transformers and transformers use."""
    if arch.head.op != "embedding":
        return "logits"
    return "last_hidden_state" if arch.head["pooling"] == "none" else "sentence_embedding"


def trace(model: Model, inputs: Tensor) -> Graph:
    """The graph of `model` for examples like `inputs` [B, T] or [B, C, rows, columns], B >= 2.

    Raises UsageError for a network that can't be traced even for one length.
    """
    model(inputs)  # fills caches of constants, which then are constants of the graph, not computations
    if not reads_both_sides(model.arch):
        return _traced(model, inputs, None)
    try:
        return _traced(model, inputs, padded(inputs))
    except UsageError as error:
        cause = error.__cause__ or error
        reason = f"{culprit(model, cause)} can't be traced with a mask of padding"
    return _traced(model, inputs, None, reason)


def _traced(model: Model, inputs: Tensor, mask: Tensor | None, unpadded: str = "") -> Graph:
    is_text = not inputs.is_floating_point()
    names = (input_name(model.arch), *(() if mask is None else (MASK,)))
    made = (names, output_name(model.arch), unpadded)
    batch, reason = torch.export.Dim("batch"), ""
    if is_text:
        try:
            program = _program(
                model, inputs, mask, {0: batch, 1: torch.export.Dim("length", max=model.max_len)}
            )
            _check_lengths(program, model, inputs, mask)
            return Graph(program, None, "", *made)
        except Exception as error:  # operators may fail in any way on a symbolic length
            reason = f"{culprit(model, error)} computes with the length as a plain number"
    try:
        program = _program(model, inputs, mask, {0: batch})
    except Exception as error:  # for example if control flow depends on the values of tensors
        raise UsageError(
            f"--format: {culprit(model, error)} can't be traced as one graph; leave --format out"
        ) from error
    return Graph(program, inputs.shape[1] if reason else None, reason, *made)


def padded(inputs: Tensor) -> Tensor:
    """A mask [B, T] int64 for `inputs` [B, T, ...] with rows of different lengths, from T tokens to one token."""
    B, T = inputs.shape
    lengths = torch.linspace(T, 1, B).long() if B > 1 else torch.tensor([max(1, T // 2)])
    return (torch.arange(T) < lengths[:, None]).long()


def culprit(model: Model, error: BaseException) -> str:
    """The operator that raised `error`, found in its traceback; else "the network"."""
    name, part = "", ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(frame.f_locals.get("self"), Block):
            part = str(frame.f_locals.get("part") or part)
        elif frame.f_code is Model.forward.__code__:
            name = str(frame.f_locals.get("name", ""))
    place = name.removeprefix("blocks.")
    if not part or not place.isdecimal():
        return "the network"
    block = model.arch.blocks[int(place)]
    slot = part if part in ("mixer", "ffn") else "norm"
    return f"the {slot} {getattr(block, slot).op} of block {place}"


def _program(
    model: Model, inputs: Tensor, mask: Tensor | None, free: dict[int, Any]
) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            _Whole(model).eval(),
            (inputs,) if mask is None else (inputs, mask),
            dynamic_shapes=(free,) if mask is None else (free, free),
            prefer_deferred_runtime_asserts_over_guards=True,  # conditions on lengths are checked at run time
        )


@torch.no_grad()
def _check_lengths(
    program: torch.export.ExportedProgram, model: Model, inputs: Tensor, mask: Tensor | None
) -> None:
    """Raises AssertionError, or the graph's error, if its outputs at other lengths differ from the model's."""
    module, longest = program.module(), inputs.shape[1]
    for length in {longest - 1, longest // 2 + 1, 4, 3} & set(range(2, longest)):
        some = inputs[:, :length].contiguous()
        given = None if mask is None else padded(some)
        ours = model(some, Tokens(valid=None if given is None else given != 0))[0]
        found = module(some) if given is None else module(some, given)
        torch.testing.assert_close(found, ours, rtol=TOLERANCE, atol=TOLERANCE)


def write_program(graph: Graph, path: Path) -> Run:
    """Save for `torch.export.load(path).module()`; returns the function that the file computes."""
    content = io.BytesIO()
    torch.export.save(graph.program, content)
    path.write_bytes(content.getvalue())  # so that a full disk raises an OSError
    module = torch.export.load(path).module()

    def run(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs: Tensor = module(*given(graph, inputs, mask).values())
        return cut(outputs, inputs)

    return run


def given(graph: Graph, inputs: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """The graph's inputs by name, for inputs [B, T] or [B, C, H, W] and their mask [B, T], by default all 1.

    They are padded to the length of the graph if that is fixed.
    """
    masks = () if not graph.takes_mask else (torch.ones_like(inputs) if mask is None else mask,)
    missing = 0 if graph.length is None else max(0, graph.length - inputs.shape[1])
    filled = (F.pad(t, (0, missing)) if missing else t for t in (inputs, *masks))
    return dict(zip(graph.inputs, filled, strict=True))


def cut(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Outputs [B, T', W] cut to the length of inputs [B, T]; other outputs [B, W] unchanged."""
    return outputs[:, : inputs.shape[1]] if outputs.dim() == 3 else outputs
