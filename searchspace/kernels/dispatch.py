"""The one switch between torch and the project's Triton kernels.

    with dispatch.use("triton"):      # or dispatch.select("triton") for the rest of the process
        model(tokens)

"torch" is the default on every device; "triton" is asked for explicitly and then holds for every operation of KERNELS:
one whose kernel is absent, cannot run on the device or cannot do the shapes at hand raises a ValueError that says so.
Nothing falls back. "auto" takes, for each operation and shape, what was faster in the table that `make gpu` measured on
this kind of device (choice.py), and torch where no table says anything. What was selected is a part of the software
that a measurement names.

A kernel module, KERNELS[name] = "module:function" under searchspace.kernels, is the only place that imports triton and
is imported when first used. It holds

    function   the signature of the torch function that it replaces (arguments, shapes, results; autograd included),
               raises ValueError(f"{name} kernel: <what it takes>, got <value>") where it cannot do what it is given
    CASES      tuple[ahead_of_time.Case, ...], what is compiled without a GPU; the first is the quick one

and a primitive hands over at the top of its public function, naming the tensor whose shape and type "auto" goes by:

    kernel = dispatch.kernel("recurrence", q.device, q)
    if kernel is not None:
        return kernel(q, k, v, log_a, S, chunk, beta)

Tests of a kernel are checks, plain functions in tests/searchspace/kernels/checks_<module>.py (see harness.py there):
run by pytest under Triton's interpreter and by `make gpu` on the device. Timings: tests/gpu/cases_<module>.py.
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
    """What operations with a kernel run by, one of CHOICES."""
    return _selected


def select(implementation: str) -> None:
    """Use this implementation for the rest of the process, in every thread."""
    global _selected
    if implementation not in CHOICES:
        raise ValueError(f"implementation must be one of {', '.join(CHOICES)}, got {implementation!r}")
    _selected = implementation


@contextmanager
def use(implementation: str) -> Iterator[None]:
    before = _selected
    select(implementation)
    try:
        yield
    finally:
        select(before)


@contextmanager
def asked() -> Iterator[list[Asked]]:
    """What operations are asked for within, for the table that "auto" reads."""
    global _asked
    before, _asked = _asked, []
    try:
        yield _asked
    finally:
        _asked = before


def why_not(implementation: str, device: str) -> str | None:
    """Why operations can't run by it on `cpu` or `cuda`, in one sentence; None where they can."""
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
    """The kernel that the operation has to use on this device, None where it runs by torch."""
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
    """A launch goes to the current device, whatever its tensors are on."""
    with torch.cuda.device(device):
        return run(*args, **kwargs)


@lru_cache
def _why_wrong(name: str, device: torch.device) -> str | None:
    """Why this device's compiler is not to be trusted with the kernel, found out once in a process."""
    trouble = importlib.import_module("searchspace.kernels.trouble")
    reason: str | None = trouble.why_wrong_here(name, _function(name), device)
    return reason


def _is_interpreted() -> bool:
    """Triton's interpreter, chosen by TRITON_INTERPRET=1 before triton is imported, runs kernels on a CPU."""
    interpreted: bool = importlib.import_module("triton").knobs.runtime.interpret
    return interpreted
