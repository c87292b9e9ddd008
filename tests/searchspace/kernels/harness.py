"""Checks of Triton kernels that run anywhere: under the interpreter for pytest, on the device for `make gpu`.

A file checks_<module>.py beside this one has CHECKS, a list of Check. A check imports kernels only when it runs, by way
of the dispatch, so that listing the checks needs no triton. The tests run in processes of their own, because Triton
decides when it is imported whether kernels are interpreted:

    python -m tests.searchspace.kernels.harness       answers requests, see worker.py

    check DEVICE NAME                   null, or {"error": ...} where the check fails
    compile MODULE CAPABILITY quick     compile each kernel's first case; `others` compiles every second of the others
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from searchspace.kernels import dispatch
from searchspace.primitives.number_formats import pack_pairs
from tests.searchspace.kernels.worker import serve

Formula = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Check:
    """`run(device)` raises where the kernel is wrong. size: quick, slow (for the interpreter) or gpu (device only)."""

    name: str
    run: Callable[[torch.device], None]
    size: str = "quick"


def pack_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(packed [N, K / 2] uint8, scale [N, K / group]) of weights [N, K] rounded to the nearest."""
    groups = weight.float().unflatten(1, (-1, group))
    scale = groups.abs().amax(-1) / 7
    codes = (groups / scale.unsqueeze(-1)).round().clamp(-8, 7).to(torch.uint8) + 8
    return pack_pairs(codes.flatten(1), group), scale


def checks() -> dict[str, Check]:
    """Every check of this folder by its name."""
    files = sorted(Path(__file__).parent.glob("checks_*.py"))
    modules = [importlib.import_module(f"tests.searchspace.kernels.{f.stem}") for f in files]
    found = [check for module in modules for check in module.CHECKS]
    named = {check.name: check for check in found}
    assert len(named) == len(found), "two checks have one name"
    return named


def assert_as_accurate(
    kernel: Formula,
    formula: Formula,
    inputs: Sequence[Tensor | None],
    dtype: torch.dtype,
    device: torch.device,
    gradients: bool = True,
    plain: Formula | None = None,
    is_tf32x3: bool = False,
) -> None:
    """No output or gradient of the kernel errs more than twice as much as the formula in torch at that dtype.

    Errors are the largest, and their norm, against the formula in float64, on inputs that the dtype holds exactly; one
    rounding of the largest value, or of the norm, is granted, since the formula may happen to be exact. Memory that the
    kernel allocates starts as NaN. On a device the kernel runs twice and gives the same bits. `plain` is what torch
    computes at that dtype where it is another form, a chunked one, of `formula`. `is_tf32x3` is for a kernel whose
    float32 products go through tensor cores in three parts: on a device torch is given inputs of as many digits.
    """
    exact = [None if t is None else t.to(dtype).double() for t in inputs]
    truth, cotangents = values_and_gradients(formula, exact, gradients)
    low = [None if t is None else t.to(dtype) for t in exact]
    is_cut = is_tf32x3 and dtype == torch.float32 and device.type == "cuda"
    given = [None if t is None else cut_to_tf32x3(t) for t in low] if is_cut else low
    rounded, _ = values_and_gradients(plain or formula, given, gradients, cotangents)
    with poisoned(), dispatch.use("triton"):
        moved = [None if t is None else t.to(device) for t in low]
        there = [c.to(device) for c in cotangents]
        found, _ = values_and_gradients(kernel, moved, gradients, there)
        if device.type == "cuda":
            again, _ = values_and_gradients(kernel, moved, gradients, there)
            for i, (value, other) in enumerate(zip(found, again, strict=True)):
                assert torch.equal(value, other), f"result {i} differs between two runs"
    for i, (expected, torch_value, value) in enumerate(zip(truth, rounded, found, strict=True)):
        assert value.shape == expected.shape, f"result {i}: shape {value.shape}, expected {expected.shape}"
        if not value.numel():
            continue
        assert value.isfinite().all(), f"result {i} is not finite"
        ours, theirs = value.cpu().double() - expected, torch_value.double() - expected
        eps = torch.finfo(dtype).eps
        error, allowed = ours.abs().max(), 2 * theirs.abs().max() + eps * expected.abs().max()
        assert error <= allowed, f"result {i} errs by {error:.3g}, allowed are {allowed:.3g}"
        error, allowed = ours.norm(), 2 * theirs.norm() + eps * expected.norm()
        assert error <= allowed, f"result {i} errs by {error:.3g} in the norm, allowed are {allowed:.3g}"


def cut_to_tf32x3(x: Tensor) -> Tensor:
    """x with 21 significant bits: two TF32 parts of 11 hold 22, and the product of the two low parts is left out."""
    return ((x.view(torch.int32) + 4) & ~7).view(torch.float32)


def values_and_gradients(
    formula: Formula,
    inputs: Sequence[Tensor | None],
    gradients: bool,
    cotangents: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """(results, then the gradients of all inputs that are given; the cotangents used)."""
    leaves = [None if t is None else t.detach().requires_grad_(gradients) for t in inputs]
    results = formula(*leaves)
    generator = torch.Generator().manual_seed(0)
    if cotangents is None:
        cotangents = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in results]
    values = [r.detach() for r in results]
    if gradients:
        wanted = [t for t in leaves if t is not None]
        values += torch.autograd.grad(
            results, wanted, [c.to(r.dtype) for c, r in zip(cotangents, results, strict=True)]
        )
    return values, list(cotangents)


@contextmanager
def refused(words: str) -> Iterator[None]:
    """What runs within must raise a ValueError that has these words."""
    message = "nothing was raised"
    try:
        yield
    except ValueError as error:
        message = str(error)
    assert words in message, f"expected {words!r}, got {message!r}"


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch leaves uninitialized is filled with NaN."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def quick_and_other_cases(module: str) -> tuple[list[Any], list[Any]]:
    """The first case of each kernel of searchspace.kernels.MODULE, and the others."""
    cases = importlib.import_module(f"searchspace.kernels.{module}").CASES
    first = {case.kernel.__name__: case for case in reversed(cases)}
    return list(first.values()), [case for case in cases if first[case.kernel.__name__] is not case]


def _answer(request: str) -> None:
    kind, rest = request.split(" ", 1)
    if kind == "check":
        device, name = rest.split(" ", 1)
        checks()[name].run(torch.device(device))
        return
    from tests.searchspace.kernels.ahead_of_time import compile_case

    module, capability, size = rest.split()
    quick, others = quick_and_other_cases(module)
    for case in quick if size == "quick" else others[int(capability) // 10 % 2 :: 2]:
        compile_case(case, int(capability))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(_answer)
