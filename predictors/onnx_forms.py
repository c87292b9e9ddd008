"""torch's ONNX exporter, with replacements for operations that it lacks or exports with an overflowing formula."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MOST_LEVELS = 16  # of a triangle of unknown size: 65,536 rows, more than fits in memory


class NoOnnxFormError(ValueError):
    """ONNX cannot express an operation, which the message names."""


def export(
    program: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    optimize: bool = True,
    any_strides: bool = False,
) -> torch.onnx.ONNXProgram:
    """Return the program as an ONNX model with these input and output names.

    The model is written without gradients, as the program was traced: with gradients torch decomposes attention with a
    learned bias in another way, and its result has strides that the views behind it do not fit.

    `any_strides` replaces each view in the program by a reshape, in place, since a replaced operation may return other
    strides, which can be copied but not viewed.
    Raises NoOnnxFormError for an operation that ONNX lacks, ImportError where the exporter is not installed.
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
    """Return the operation that ONNX cannot express, where the exporter's error names it."""
    found = re.search(r"torch\.ops\.aten\.(\w+)", f"{error} {error.__cause__}")
    return f"ONNX has no form of {found[1]}" if found else "it can't be exported as one ONNX graph"


def _log_sigmoid(x: Tensor) -> Tensor:
    return torch.minimum(x, torch.zeros_like(x)) - torch.log1p((-x.abs()).exp())


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """Return (I + L)^{-1} B by matrix products; L is A [..., C, C] below its diagonal, B and the result [..., C, V].

    The inverse is built from halves: that of a block [[P, 0], [Q, R]] of 2 s rows is [[P^-1, 0], [-R^-1 Q P^-1, R^-1]],
    for s = 1, 2, 4, ... and all blocks at once. A product of powers of L would take fewer steps, but powers grow and
    cancel where keys are alike. Raises NoOnnxFormError for other arguments.
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


# The exporter's formula for logsigmoid overflows where the sigmoid rounds to 0; it has none for the solve.
FORMS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.log_sigmoid.default: _log_sigmoid,
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
}


def _in_other_forms(program: torch.export.ExportedProgram, any_strides: bool) -> torch.export.ExportedProgram:
    """Apply the replacements; the graph is decomposed again only where it contains one of them."""
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
    """Silence the exporters' remarks on torch's internals, unchanged operations and missing packages."""
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
