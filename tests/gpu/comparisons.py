"""Calls of one function of torch and its kernel, for the benchmark: forward, or forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from predictors.timing import Call
from searchspace.kernels import dispatch

Function = Callable[..., Any]


def dtype_of(device: str) -> torch.dtype:
    """What is timed; a CPU stands for a dry run, in the interpreter, which needs tiny sizes too."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def normal(device: str, *shape: int, is_trained: bool = False) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype_of(device), requires_grad=is_trained)


def timed(function: Function, inputs: Sequence[Tensor], phase: str) -> Call:
    """A call of the function; in the phase "train" with the gradients of the inputs by its first result."""
    if phase != "train":
        return torch.no_grad()(partial(function, *inputs))
    cotangent: list[Tensor] = []

    def both() -> Any:
        y = function(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        cotangent.extend([] if cotangent else [torch.randn_like(y)])
        return torch.autograd.grad(y, inputs, cotangent[0])

    return both


def under(implementation: str, function: Function) -> Function:
    def run(*inputs: Tensor) -> Any:
        with dispatch.use(implementation):
            return function(*inputs)

    return run


def compared(device: str, function: Function, inputs: Sequence[Tensor], phase: str) -> dict[str, Call]:
    """The kernel, torch and, on a device, torch.compile of it."""
    found = {name: timed(under(name, function), inputs, phase) for name in dispatch.IMPLEMENTATIONS[::-1]}
    if device == "cuda":
        found["compiled"] = timed(torch.compile(function), inputs, phase)
    return found
