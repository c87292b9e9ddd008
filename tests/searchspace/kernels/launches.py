"""Every launch that the checks make, compiled for a device that is not here: real arguments, through Triton's own JIT.

    python -m tests.searchspace.kernels.launches CAPABILITY MODULE ...

prints one line of JSON for each compilation: kernel, warps, stages, registers and spills (bytes) of a thread, shared
memory (bytes) of a block. MODULE is the end of a checks_<module>.py, or `spaces`: a training step of some networks of
each built-in space, in float32 and in bfloat16.

The driver that Triton is given compiles and launches nothing, so results stay as memory was; checks are run for their
launches alone. A process of its own, because Triton decides when it is imported what it is.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from nas.training.sandwich import Sandwich
from predictors.network_bench import network_call
from predictors.profiling import random_models
from searchspace.kernels import attention, dispatch, norms
from searchspace.kernels import attention_decode as decode
from searchspace.load import builtin_spaces, load_space
from searchspace.spec.workload import Workload
from tests.searchspace.kernels.ahead_of_time import usage
from tests.searchspace.kernels.harness import Check, values_and_gradients

MULTIPROCESSORS = 132
NUM_RANDOM = 6  # networks of a space beside its largest and its smallest


@dataclass(frozen=True)
class Launch:
    kernel: str
    types: str  # of what its pointers point to
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int


class Compiling:
    """What Triton asks of a driver until a kernel is compiled."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def compiling(capability: int) -> Iterator[dict[str, Launch]]:
    """Within, kernels are compiled for this compute capability where they would be launched; what came of each."""
    found: dict[str, Launch] = {}
    launch = JITFunction.run

    def compiled(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.hash not in found:
            found[kernel.hash] = _resources(kernel)
        return kernel

    served = 90 if capability // 10 in (9, 10) else 80
    patches: list[tuple[Any, str, Any]] = [
        (JITFunction, "run", compiled),
        (dispatch, "_is_interpreted", lambda: True),  # tensors on the CPU will do
        (attention, "capability", lambda device: served),
        (decode, "num_multiprocessors", lambda device: MULTIPROCESSORS),
        (norms, "num_multiprocessors", lambda device: MULTIPROCESSORS),
    ]
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in patches]
    for holder, name, value in patches:
        setattr(holder, name, value)
    driver.set_active(Compiling(capability))  # for good: this machine may have no other
    try:
        yield found
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _resources(kernel: Any) -> Launch:
    registers, spill_bytes = usage(kernel.asm["cubin"])
    m = kernel.metadata
    types = {kind[1:] for kind in kernel.src.signature.values() if kind.startswith("*")}
    return Launch(
        m.name, " ".join(sorted(types)), m.num_warps, m.num_stages, registers, spill_bytes, m.shared
    )


def launches_of(module: str, capability: int) -> list[Launch]:
    """Of the checks of checks_<module>.py that a device runs."""
    checks: Any = importlib.import_module(f"tests.searchspace.kernels.checks_{module}")
    if hasattr(checks, "assert_as_accurate"):
        checks.assert_as_accurate = launched
    with compiling(capability) as found:
        for check in checks.CHECKS:
            _run(check)
    return list(found.values())


def launches_of_spaces(capability: int) -> list[Launch]:
    with compiling(capability) as found, dispatch.use("triton"):
        for name in builtin_spaces():
            space = load_space(name)
            for dtype in ("float32", "bfloat16"):
                workload = Workload("train", 2, int(space.stem.get("max_len") or 64), 0, dtype)
                for model in random_models(Sandwich(space, NUM_RANDOM, seed=0).at(0)).values():
                    with suppress(ValueError):  # a kernel says that it does not take a size
                        network_call(model, workload, "cpu")()
    return list(found.values())


def launched(
    kernel: Callable[..., tuple[Tensor, ...]],
    formula: Any,
    inputs: Sequence[Tensor | None],
    dtype: torch.dtype,
    device: torch.device,
    gradients: bool = True,
    **_: Any,
) -> None:
    """The launches of `assert_as_accurate`, without what they are compared with."""
    low = [None if t is None else t.to(dtype) for t in inputs]
    with dispatch.use("triton"):
        values_and_gradients(kernel, low, gradients)


def _run(check: Check) -> None:
    """What was not computed is wrong, which the check may say."""
    with suppress(AssertionError):
        check.run(torch.device("cpu"))


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    capability = int(arguments[0])
    for module in arguments[1:]:
        found = launches_of_spaces(capability) if module == "spaces" else launches_of(module, capability)
        for launch in found:
            print(json.dumps(asdict(launch)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
