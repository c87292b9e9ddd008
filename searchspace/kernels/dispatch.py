"""The one switch between torch and the project's Triton kernels.

    with dispatch.use("triton"):      # or dispatch.select("triton") for the rest of the process
        model(tokens)

"torch" is the default on every device; "triton" is asked for explicitly and then holds for every operation of KERNELS:
one whose kernel is absent, cannot run on the device or cannot do the shapes at hand raises a ValueError that says so.
Nothing falls back. What was selected goes into `Measurement.implementation`.

A kernel module, KERNELS[name] = "module:function" under searchspace.kernels, is the only place that imports triton and
is imported when first used. It holds

    function   the signature of the torch function that it replaces (arguments, shapes, results; autograd included),
               raises ValueError(f"{name} kernel: <what it takes>, got <value>") where it cannot do what it is given
    CASES      tuple[ahead_of_time.Case, ...], what is compiled without a GPU; the first is the quick one

and a primitive hands over at the top of its public function:

    kernel = dispatch.kernel("recurrence", q.device)
    if kernel is not None:
        return kernel(q, k, v, log_a, S, chunk, beta)

Tests of a kernel are checks, plain functions in tests/searchspace/kernels/checks_<module>.py (see harness.py there):
run by pytest under Triton's interpreter and by `make gpu` on the device. Timings: tests/gpu/cases_<module>.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

IMPLEMENTATIONS = ("torch", "triton")
KERNELS = {
    "add_layer_norm": "norms:add_layer_norm",
    "add_rms_norm": "norms:add_rms_norm",
    "attention": "attention:attention",
    "delta_rule": "delta_rule:delta_rule",
    "dynamic_int8_matmul": "quantized:dynamic_int8_matmul",
    "gated_activation": "gated:gated_activation",
    "int4_matmul": "quantized:int4_matmul",
    "int8_matmul": "quantized:int8_matmul",
    "layer_norm": "norms:layer_norm",
    "masked_softmax": "softmax:masked_softmax",
    "recurrence": "recurrence:recurrence",
    "rms_norm": "norms:rms_norm",
    "short_convolution": "short_convolution:short_convolution",
}

_selected = "torch"


def selected() -> str:
    """The implementation that operations with a kernel use."""
    return _selected


def select(implementation: str) -> None:
    """Use this implementation for the rest of the process, in every thread."""
    global _selected
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}"
        )
    _selected = implementation


@contextmanager
def use(implementation: str) -> Iterator[None]:
    before = _selected
    select(implementation)
    try:
        yield
    finally:
        select(before)


def kernel(name: str, device: torch.device) -> Callable[..., Any] | None:
    """The kernel that the operation has to use on this device, None where torch was selected."""
    if _selected == "torch":
        return None
    if name not in KERNELS:
        raise ValueError(f"there is no Triton kernel {name!r}; known: {', '.join(sorted(KERNELS))}")
    module_name, function = KERNELS[name].split(":")
    try:
        module = importlib.import_module(f"searchspace.kernels.{module_name}")
    except ImportError as error:
        raise ValueError(
            f"{name} was to run by its Triton kernel, which cannot be loaded here: {error}"
        ) from error
    if device.type != "cuda" and not _is_interpreted():
        raise ValueError(
            f"{name} was to run by its Triton kernel, which needs a cuda device, got {device.type}"
        )
    found: Callable[..., Any] = getattr(module, function)
    return found


def implementation_of(name: str, device: torch.device) -> str:
    """What the operation runs by on this device; raises like `kernel`."""
    return "torch" if kernel(name, device) is None else "triton"


def _is_interpreted() -> bool:
    """Triton's interpreter, chosen by TRITON_INTERPRET=1 before triton is imported, runs kernels on a CPU."""
    interpreted: bool = importlib.import_module("triton").knobs.runtime.interpret
    return interpreted
