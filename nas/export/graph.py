"""A network as one graph: a torch.export program, and from it an ONNX file.

A graph maps inputs to logits and keeps no decoding state. The number of sequences is free. So is their length, where
the network computes the same graph for every length; else it is the length of the examples, and a causal network takes
shorter sequences with anything behind them.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import UsageError
from searchspace.model import Block, Model

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Graph:
    """`length` is the one that it is fixed to, None where it is free; `reason` says why it is fixed."""

    program: torch.export.ExportedProgram
    length: int | None
    reason: str


class _Logits(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)[0]
        return logits


def trace(model: Model, inputs: Tensor) -> Graph:
    """The graph of `model` for examples like `inputs` [B, T] or [B, C, rows, columns], B >= 2.

    Raises UsageError for a network that is no graph even at one length.
    """
    model(inputs)  # constants that are kept become numbers in the graph, not steps of it
    batch, reason = torch.export.Dim("batch"), ""
    if not inputs.is_floating_point():
        try:
            length = torch.export.Dim("length", max=model.max_len)
            program = _program(model, inputs, {0: batch, 1: length})
            _check_lengths(program, model, inputs)
            return Graph(program, None, "")
        except Exception as error:  # whatever the network does with a length that is no number
            reason = f"{_culprit(model, error)} computes with the length as a plain number"
    try:
        return Graph(_program(model, inputs, {0: batch}), inputs.shape[1] if reason else None, reason)
    except Exception as error:  # as when what is computed depends on the values of tensors
        raise UsageError(
            f"--format: {_culprit(model, error)} can't be traced as one graph; leave --format out"
        ) from error


def _culprit(model: Model, error: BaseException) -> str:
    """The operator that was being run when the error came, where it says so; else the network."""
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


def _program(model: Model, inputs: Tensor, free: dict[int, Any]) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            _Logits(model).eval(),
            (inputs,),
            dynamic_shapes={"inputs": free},
            prefer_deferred_runtime_asserts_over_guards=True,  # what can't be proven of every length is tried
        )


@torch.no_grad()
def _check_lengths(program: torch.export.ExportedProgram, model: Model, inputs: Tensor) -> None:
    """Raises an error where the graph does not take other lengths, odd ones and a power of two among them."""
    run, longest = program.module(), inputs.shape[1]
    for length in {longest - 1, longest // 2 + 1, 4, 3} & set(range(2, longest)):
        some = inputs[:, :length].contiguous()
        torch.testing.assert_close(run(some), model(some)[0], rtol=1e-4, atol=1e-4)


def write_program(graph: Graph, path: Path) -> Run:
    """Save for `torch.export.load(path).module()`; returns what the file computes."""
    content = io.BytesIO()
    torch.export.save(graph.program, content)
    path.write_bytes(content.getvalue())  # a full disk is an error of the system, which names itself
    module = torch.export.load(path).module()
    return lambda inputs: module(inputs)


def write_onnx(graph: Graph, inputs: Tensor, path: Path) -> Run:
    """Save as ONNX with the input `inputs` and the output `logits`; returns what onnxruntime computes from the file.

    Raises UsageError for a network with an operation that ONNX does not have, as the solve of the delta rules.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is not installed; type `pip install efficient-transformer-nas[export]`"
        ) from None
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it lists operators of packages that are not here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about torch's internals
        try:
            written = torch.onnx.export(
                _in_stable_forms(graph.program),
                (inputs,),
                dynamo=True,
                verbose=False,
                input_names=["inputs"],
                output_names=["logits"],
            )
        except torch.onnx.OnnxExporterError as error:
            raise UsageError(f"--format onnx: {_why_not_onnx(error)}; torch-export takes it") from error
    assert written is not None
    written.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise UsageError(
            "--format onnx: onnxruntime does not take what was written of this network; torch-export takes it"
        ) from error

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])

    return run


def _log_sigmoid(x: Tensor) -> Tensor:
    return torch.minimum(x, torch.zeros_like(x)) - torch.log1p((-x.abs()).exp())


# What torch's exporter would write as a formula that overflows: the logarithm of a sigmoid that may be 0.
STABLE = {torch.ops.aten.log_sigmoid.default: _log_sigmoid}


def _in_stable_forms(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same graph; decomposed anew only where that makes a difference."""
    found = any(node.target in STABLE for node in program.graph.nodes)
    return program.run_decompositions(dict(STABLE)) if found else program


def _why_not_onnx(error: BaseException) -> str:
    """The operation that the exporter has no translation for, as far as it says."""
    found = re.search(r"torch\.ops\.aten\.(\w+)", f"{error} {error.__cause__}")
    return f"ONNX has no form of the network's {found[1]}" if found else "the exporter failed on this network"
