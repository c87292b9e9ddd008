"""Selects between torch and the project's Triton kernels.

    with dispatch.use("triton"):      # or dispatch.select("triton") for the rest of the process
        model(tokens)

"torch" is the default on every device. "triton" applies to every operation of KERNELS, without fallback: an operation
whose kernel is absent or does not support the device or shapes raises ValueError. "auto" chooses, for each operation
and shape, the faster one in the table that `make gpu` measured on this kind of device (choice.py), and torch without a
table. The selection is recorded with the software versions of a measurement.

A kernel module, KERNELS[name] = "module:function" under searchspace.kernels, is the only place that imports triton and
is imported when first used. It contains

    function   has the signature of the torch function that it replaces (arguments, shapes, results, autograd) and
               raises ValueError(f"{name} kernel: <what it takes>, got <value>") for unsupported arguments
    CASES      tuple[ahead_of_time.Case, ...], compiled in tests without a GPU; the first compiles fastest

A primitive calls it at the top of its public function, with the tensor whose shape and dtype "auto" uses:

    kernel = dispatch.kernel("recurrence", q.device, q)
    if kernel is not None:
        return kernel(q, k, v, log_a, S, chunk, beta)

A kernel's tests are plain functions in tests/searchspace/kernels/checks_<module>.py (see harness.py there), run by
pytest under Triton's interpreter and by `make gpu` on the device. Timings: tests/gpu/cases_<module>.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from searchspace.kernels import choice
from searchspace.kernels.choice import Asked

IMPLEMENTATIONS = ("torch", "triton")
CHOICES = (*IMPLEMENTATIONS, "auto")
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
_asked: list[Asked] | None = None


def selected() -> str:
    """The selected implementation, one of CHOICES."""
    return _selected


def select(implementation: str) -> None:
    """Use this implementation in every thread for the rest of the process. Raises ValueError if not in CHOICES."""
    global _selected
    if implementation not in CHOICES:
        raise ValueError(f"implementation must be one of {', '.join(CHOICES)}, got {implementation!r}")
    _selected = implementation


@contextmanager
def use(implementation: str) -> Iterator[None]:
    """Use this implementation within the context, in every thread. Raises ValueError if not in CHOICES."""
    before = _selected
    select(implementation)
    try:
        yield
    finally:
        select(before)


@contextmanager
def asked() -> Iterator[list[Asked]]:
    """A list to which each operation called within the context is appended, for the tables that "auto" reads."""
    global _asked
    before, _asked = _asked, []
    try:
        yield _asked
    finally:
        _asked = before


def why_not(implementation: str, device: str) -> str | None:
    """Why `implementation` can't run on `device`, "cpu" or "cuda", in one sentence; None if it can."""
    if implementation == "torch":
        return None
    if implementation not in CHOICES:
        return f"{implementation!r} is none of {', '.join(CHOICES)}"
    if device != "cuda":
        return f"the kernels run on a CUDA device; on {device} take torch"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be loaded here ({error}); install it, or take torch"
    return None


def kernel(name: str, device: torch.device, of: Tensor | None = None) -> Callable[..., Any] | None:
    """The kernel to use for operation `name` on this device, None for torch. "auto" decides by the tensor `of`.

    Raises ValueError if "triton" is selected and the kernel is unknown, can't be loaded or can't run on the device.
    """
    if _selected == "torch":
        return None
    if name not in KERNELS:
        raise ValueError(f"there is no Triton kernel {name!r}; known: {', '.join(sorted(KERNELS))}")
    if of is not None and _asked is not None:
        _asked.append(Asked.of(name, of))
    if _selected == "auto":
        is_faster = of is not None and device.type == "cuda" and choice.is_faster(Asked.of(name, of), device)
        if not is_faster or _why_wrong(name, device) is not None:
            return None
    found = _function(name)
    if device.type != "cuda":
        if _is_interpreted():
            return found
        raise ValueError(
            f"{name} was to run by its Triton kernel, which needs a cuda device, got {device.type}"
        )
    reason = _why_wrong(name, device)
    if reason is not None:
        raise ValueError(f"{name} kernel: {reason}")
    is_current = device.index in (None, torch.cuda.current_device())
    return found if is_current else partial(_on, device, found)


def _function(name: str) -> Callable[..., Any]:
    module_name, function = KERNELS[name].split(":")
    try:
        module = importlib.import_module(f"searchspace.kernels.{module_name}")
    except ImportError as error:
        raise ValueError(
            f"{name} was to run by its Triton kernel, which cannot be loaded here: {error}"
        ) from error
    found: Callable[..., Any] = getattr(module, function)
    return found


def _on(device: torch.device, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run on `device`, since Triton launches on the current device regardless of where the tensors are."""
    with torch.cuda.device(device):
        return run(*args, **kwargs)


@lru_cache
def _why_wrong(name: str, device: torch.device) -> str | None:
    """Why the kernel compiles wrongly for this device, None if it does not; checked once per process."""
    trouble = importlib.import_module("searchspace.kernels.trouble")
    reason: str | None = trouble.why_wrong_here(name, _function(name), device)
    return reason


def _is_interpreted() -> bool:
    """Whether Triton's interpreter, set by TRITON_INTERPRET=1 before triton is imported, runs kernels on the CPU."""
    interpreted: bool = importlib.import_module("triton").knobs.runtime.interpret
    return interpreted
