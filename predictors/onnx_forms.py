"""torch's ONNX exporter, with forms of the operations that it has none of, or a formula that overflows."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MOST_LEVELS = 16  # of a triangle of unknown size: 65,536 rows, more than memory holds


class NoOnnxFormError(ValueError):
    """ONNX has no form of an operation; says of which."""


def export(
    program: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    optimize: bool = True,
    any_strides: bool = False,
) -> torch.onnx.ONNXProgram:
    """The program as an ONNX model with these names.

    Written without gradients, as it was traced: with them torch takes attention with a learned bias apart in another
    way, and what is viewed behind it lies in other strides.

    With `any_strides` each view in it becomes a reshape, in place: what another form of an operation leaves in other
    strides can't be viewed, only copied.
    Raises NoOnnxFormError for an operation that ONNX does not have, ImportError where the exporter is not installed.
    """
    with _quiet(), torch.no_grad():
        try:
            written = torch.onnx.export(
                _in_other_forms(program, any_strides),
                args,
                dynamo=True,
                verbose=False,
                optimize=optimize,
                input_names=list(inputs),
                output_names=list(outputs),
            )
        except torch.onnx.OnnxExporterError as error:
            raise NoOnnxFormError(why_not_exported(error)) from error
    assert written is not None
    return written


def why_not_exported(error: BaseException) -> str:
    """The operation that ONNX has no form of, as far as torch's exporters say."""
    found = re.search(r"torch\.ops\.aten\.(\w+)", f"{error} {error.__cause__}")
    return f"ONNX has no form of {found[1]}" if found else "it can't be exported as one ONNX graph"


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
        raise NoOnnxFormError("ONNX has no form of this linalg_solve_triangular")
    C = A.shape[-1]
    places = torch.arange(C, device=A.device)
    inverse = torch.eye(C, dtype=A.dtype, device=A.device).expand(A.shape)
    for level in range(MOST_LEVELS if isinstance(C, torch.SymInt) else (C - 1).bit_length()):
        block = places // 2**level
        below = (block % 2 == 1).unsqueeze(1) & (block.unsqueeze(1) == block.unsqueeze(0) + 1)
        inverse = inverse - inverse @ (A * below) @ inverse
    return inverse @ B


# The logarithm of a sigmoid that may be 0 overflows in the exporter's formula; of the solve it has none.
FORMS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
}


def _in_other_forms(program: torch.export.ExportedProgram, any_strides: bool) -> torch.export.ExportedProgram:
    """The same graph; decomposed anew only where that makes a difference."""
    if any(node.target in FORMS for node in program.graph.nodes):
        program = program.run_decompositions(dict(FORMS))
    if any_strides:
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        program.graph_module.recompile()
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own remarks on torch's internals, on what they leave as it is, and on missing packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
