"""An ONNX file of a traced program, and what onnxruntime computes from it."""

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
    """Save as ONNX with the graph's names of inputs and output; returns what onnxruntime computes from the file.

    Raises UsageError for a network with an operation that ONNX does not have.
    `inputs` [N, ...] are what the graph is run on.
    """
    save(graph.program, tuple(given(graph, inputs).values()), graph.inputs, (graph.output,), path)
    return runner(graph, path)


def runner(graph: Graph, path: Path) -> Run:
    """What onnxruntime computes from a file of this graph. Raises UsageError where it refuses the file."""
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
    """Save a program as ONNX with these names. Raises UsageError as write_onnx does."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is not installed; type `pip install efficient-transformer-nas[export]`"
        ) from None
    try:
        export(program, args, inputs, outputs).save(path)
    except NoOnnxFormError as error:
        raise UsageError(f"--format onnx: {error}; torch-export takes it") from error


def session(path: Path) -> Any:
    """The file in onnxruntime, on one thread. Raises UsageError where it does not take it."""
    try:
        return onnx_session.session(path, 1)
    except Exception as error:  # its errors have no common base
        raise UsageError(
            "--format onnx: onnxruntime does not take what was written of this network; torch-export takes it"
        ) from error
