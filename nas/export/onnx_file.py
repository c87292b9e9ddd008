"""An ONNX file of a traced program, and what onnxruntime computes from it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UsageError
from nas.export.graph import Graph, Run, cut, given

MOST_LEVELS = 16  # of a triangle of unknown size: 65,536 rows, more than memory holds


def write_onnx(graph: Graph, inputs: Tensor, path: Path) -> Run:
    """Save as ONNX with the graph's names of inputs and output; returns what onnxruntime computes from the file.

    Raises UsageError for a network with an operation that ONNX does not have.
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
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it lists operators of packages that are not here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about torch's internals
        try:
            written = torch.onnx.export(
                _in_other_forms(program),
                args,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
            )
        except torch.onnx.OnnxExporterError as error:
            raise UsageError(f"--format onnx: {_why_not_onnx(error)}; torch-export takes it") from error
    assert written is not None
    written.save(path)


def session(path: Path) -> Any:
    """The file in onnxruntime, on one thread. Raises UsageError where it does not take it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise UsageError(
            "--format onnx: onnxruntime does not take what was written of this network; torch-export takes it"
        ) from error


def _log_sigmoid(x: Tensor) -> Tensor:
    return torch.minimum(x, torch.zeros_like(x)) - torch.log1p((-x.abs()).exp())


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """(I + L)^{-1} B in matrix products, L the part of A [..., C, C] below its diagonal; B [..., C, V].

    The inverse by halves: of a block [[P, 0], [Q, R]] of 2 s rows it is [[P^-1, 0], [-R^-1 Q P^-1, R^-1]], for s = 1,
    2, 4, ... and all blocks at once. Powers of L, of which there are fewer, grow where keys are alike and cancel.
    """
    if upper or not left or not unitriangular:
        raise UsageError("--format onnx: ONNX has no form of this triangular solve; torch-export takes it")
    C = A.shape[-1]
    places = torch.arange(C, device=A.device)
    inverse = torch.eye(C, dtype=A.dtype, device=A.device).expand(A.shape)
    for level in range(MOST_LEVELS if isinstance(C, torch.SymInt) else (C - 1).bit_length()):
        block = places // 2**level
        below = (block % 2 == 1).unsqueeze(1) & (block.unsqueeze(1) == block.unsqueeze(0) + 1)
        inverse = inverse - inverse @ (A * below) @ inverse
    return inverse @ B


# What torch's exporter writes as a formula that overflows, the logarithm of a sigmoid that may be 0, or not at all.
FORMS = {
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
}


def _in_other_forms(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same graph; decomposed anew only where that makes a difference."""
    found = any(node.target in FORMS for node in program.graph.nodes)
    return program.run_decompositions(dict(FORMS)) if found else program


def _why_not_onnx(error: BaseException) -> str:
    """The operation that the exporter has no translation for, as far as it says."""
    found = re.search(r"torch\.ops\.aten\.(\w+)", f"{error} {error.__cause__}")
    return f"ONNX has no form of the network's {found[1]}" if found else "the exporter failed on this network"
