"""Writes a traced program as an ONNX file and runs it with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UsageError
from nas.export.graph import Graph, Run, cut, given
from predictors import onnx_session
from predictors.onnx_forms import NoOnnxFormError, export


def write_onnx(graph: Graph, inputs: Tensor, path: Path) -> Run:
    """Save as ONNX with the graph's names of inputs and output; returns the function that onnxruntime computes.

    inputs: [N, T] or [N, C, H, W], examples to trace with. Raises UsageError for an operation that ONNX lacks.
    """
    save(graph.program, tuple(given(graph, inputs).values()), graph.inputs, (graph.output,), path)
    return runner(graph, path)


def runner(graph: Graph, path: Path) -> Run:
    """The function that onnxruntime computes from a file of `graph`. Raises UsageError if it can't load the file."""
    file = session(path)

    def run(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        feeds = {name: t.numpy() for name, t in given(graph, inputs, mask).items()}
        return cut(torch.from_numpy(file.run(None, feeds)[0]), inputs)

    return run


def save(
    program: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    path: Path,
) -> None:
    """Save a program as ONNX with names for `inputs` and `outputs`.

    Raises UsageError for an operation that ONNX lacks, and if a needed package is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is not installed; run `pip install efficient-transformer-nas[export]`"
        ) from None
    try:
        export(program, args, inputs, outputs).save(path)
    except NoOnnxFormError as error:
        raise UsageError(f"--format onnx: {error}; use --format torch-export") from error


def session(path: Path) -> Any:
    """An InferenceSession of the file on one thread. Raises UsageError if onnxruntime can't load it."""
    try:
        return onnx_session.session(path, 1)
    except Exception as error:  # onnxruntime's errors have no common base class
        raise UsageError(
            "--format onnx: onnxruntime can't load the file of this network; use --format torch-export"
        ) from error
