"""Runtimes that execute a network on a device; a latency belongs to one of them. Does not import torch.

eager          torch, one operation after the other
onnxruntime    the network as an ONNX graph on the CPU, with that library's fusions
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from searchspace.spec.workload import Workload

EAGER, ONNXRUNTIME = RUNTIMES = ("eager", "onnxruntime")
NEEDS = ("onnxruntime", "onnx", "onnxscript")


@cache
def is_installed(runtime: str) -> bool:
    return runtime == EAGER or all(find_spec(name) is not None for name in NEEDS)


def software(runtime: str) -> str:
    """Return the runtime's name and version; "" for eager, whose version is torch's."""
    if runtime == EAGER:
        return ""
    try:
        return f"{runtime} {version(runtime)}"
    except PackageNotFoundError:
        return runtime


def why_not(runtime: str, device: str, workload: Workload) -> str | None:
    """Return why a runtime can't time this workload on this device, naming one that can; None where it can."""
    if runtime == EAGER:
        return None
    if device != "cpu":
        return f"onnxruntime is measured on the CPU alone, this is for {device}; use eager"
    if workload.phase != "forward":
        return f"onnxruntime is measured on whole sequences, not in phase {workload.phase}; use eager"
    if workload.dtype != "float32":
        return f"onnxruntime computes in float32 on the CPU, this is for {workload.dtype}; use eager"
    if not is_installed(runtime):
        return (
            "onnxruntime is not installed; type `pip install efficient-transformer-nas[export]`, or use eager"
        )
    return None


def default_runtime(task: str, device: str, workload: Workload) -> str:
    """Return onnxruntime for encoders and images where it is installed and supports the workload, else eager."""
    suits = task != "causal_lm" and why_not(ONNXRUNTIME, device, workload) is None
    return ONNXRUNTIME if suits else EAGER
