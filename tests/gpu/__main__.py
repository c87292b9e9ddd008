"""`make gpu`: what a machine with a CUDA device tells us. Needs torch, triton and numpy, nothing else, no network.

    python3 -m tests.gpu --out out/gpu [--device cuda] [--sections kernels benchmark contracts profile] [--minutes 7]

Exit status 1 where something failed or was not reached, 2 where there is no such device.

kernels     the checks of the Triton kernels on the device: tests/searchspace/kernels/checks_*.py
benchmark   the kernels beside torch, torch.compile, torch's fused attention and, where out/gpu-wheels holds it,
            flash-linear-attention: cases_*.py
contracts   every operator on the device: the fast form in float64 against its reference computed on the CPU, gradients,
            and a pass in the device's own low precision
profile     the operator table of the built-in spaces and the error of its predictions on networks it never saw

Sections write their results when they end, eight files in all, and are not run again where nothing was left out: a
killed run goes on, and failures of one before count. What has to be kept between runs is below out/gpu-work. With
--device cpu the first two run by Triton's interpreter on tiny shapes: a dry run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from predictors import cuda
from predictors.device import device_name, software
from predictors.evaluate import evaluate
from predictors.profiling import local_profile
from searchspace.contracts import cases
from searchspace.contracts.cases import Case
from searchspace.load import builtin_spaces, load_space
from searchspace.primitives.context import Tokens
from searchspace.spec.workload import Workload
from tests.gpu.benchmark import benchmark
from tests.gpu.kernels import kernels
from tests.searchspace.kernels.worker import ROOT

WORK = ROOT / "out" / "gpu-work"
SLOTS = ("mixer", "ffn", "norm", "normalizer", "projection")
LENGTHS = (1, 17, 48)
TOLERANCE = 1e-9
CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "temperature.gpu",
    "clocks_event_reasons.active",
)


def contracts(device: str, out: Path, deadline: float) -> dict[str, Any]:
    """Failures by case; the cases that the time did not reach are counted, not hidden."""
    torch.set_default_dtype(torch.float64)
    found = cases.quick(*SLOTS)
    failures: dict[str, str] = {}
    reached = 0
    for case in found:
        if time.monotonic() > deadline:
            break
        reached += 1
        try:
            _check(case, device)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures[str(case)] = (
                f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
            )
    torch.set_default_dtype(torch.float32)
    return {"cases": len(found), "reached": reached, "failures": failures}


def _check(case: Case, device: str) -> None:
    module = case.build()
    for T in LENGTHS:
        x, facts = cases.inputs(case, T)
        expected = None if case.entry.reference is None else cases.run_reference(case, module, x, facts)
        on_device, moved = module.to(device), _moved(facts, device)
        leaf = x.to(device).requires_grad_()
        actual = cases.run(case, on_device, leaf, moved)
        if expected is not None:
            torch.testing.assert_close(actual.cpu(), expected, rtol=TOLERANCE, atol=TOLERANCE)
        if actual.requires_grad:
            actual.sum().backward()
            assert leaf.grad is None or leaf.grad.isfinite().all(), "a gradient is not finite"
        low = cases.run(case, on_device.to(torch.bfloat16), leaf.detach().to(torch.bfloat16), moved)
        assert low.isfinite().all(), "the output in bfloat16 is not finite"
        module = module.to("cpu", torch.float64)
        module.zero_grad(set_to_none=True)


def _moved(facts: Tokens, device: str) -> Tokens:
    rotary = None if facts.rotary is None else (facts.rotary[0].to(device), facts.rotary[1].to(device))
    positions = None if facts.positions is None else facts.positions.to(device)
    return facts.replace(positions=positions, rotary=rotary)


def profile(device: str, out: Path, deadline: float) -> dict[str, Any]:
    """Predicted against measured latency of each built-in space, as long as the time lasts."""
    tables: dict[str, str] = {}
    failures: dict[str, str] = {}
    spaces = builtin_spaces()
    for name in spaces:
        if time.monotonic() > deadline:
            break
        space = load_space(name)
        workload = Workload(seq_len=space.stem.get("max_len", 64))
        try:
            found = local_profile(space, workload, WORK / "profiles", device, seconds_budget=40.0)
        except ValueError as refused:  # a space that is too large for a table of its operators
            tables[name] = str(refused)
            continue
        try:
            tables[name] = evaluate(space, found, 30, device).table()
        except ValueError as error:
            failures[name] = str(error)
            continue
        print(tables[name], flush=True)
    if tables:
        shutil.make_archive(str(out / "profiles"), "tar", WORK / "profiles")
    reached = len(tables) + len(failures)
    return {"cases": len(spaces), "reached": reached, "failures": failures, "spaces": tables}


SECTIONS: dict[str, Callable[[str, Path, float], dict[str, Any]]] = {
    "kernels": kernels,
    "benchmark": benchmark,
    "contracts": contracts,
    "profile": profile,
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--device", default="cuda")
    options.add_argument("--sections", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    options.add_argument("--minutes", type=float, default=7.0, help="no section starts new work after this")
    chosen = options.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("make gpu: torch finds no CUDA device here", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * chosen.minutes
    is_well = True
    for name in chosen.sections:
        path = chosen.out / f"{name}.json"
        result, when = _complete(path), "done before"
        if result is None:
            start = time.monotonic()
            result = _run(name, chosen.device, chosen.out, deadline)
            when = f"{time.monotonic() - start:.0f} s"
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        is_well = is_well and _is_well(result)
        failures, left = result["failures"], result["cases"] - result["reached"]
        print(f"{name}: {when}, {len(failures)} failures, {left} of {result['cases']} not reached, {path}")
        for case, reason in failures.items():
            print(f"  {case}: {reason}")
    return 0 if is_well else 1


def _run(name: str, device: str, out: Path, deadline: float) -> dict[str, Any]:
    """The results of a section, with the clocks of the device before and after."""
    start = time.monotonic()
    before = _clocks() if device == "cuda" else {}
    result = SECTIONS[name](device, out, deadline)
    return {
        "device": device_name(device),
        "software": software(),
        "seconds": time.monotonic() - start,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "clocks": {"before": before, "after": _clocks() if device == "cuda" else {}},
        **result,
    }


def _clocks() -> dict[str, str]:
    """Clocks, power and temperature of the current device as nvidia-smi states them, and why it is slowed, if it is."""
    return {name: found for name in CLOCKS if (found := cuda.ask(name))}


def _complete(path: Path) -> dict[str, Any] | None:
    """The results of an earlier run that left nothing out."""
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["reached"] == result["cases"] else None


def _is_well(result: dict[str, Any]) -> bool:
    return not result["failures"] and result["reached"] == result["cases"]


if __name__ == "__main__":
    sys.exit(main())
