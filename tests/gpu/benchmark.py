"""Times of the kernels beside what else computes the same, or what a user would otherwise run.

A file cases_<module>.py beside this one has CASES, a tuple of Case. `make(device)` gives the calls by implementation,
the project's kernel as "triton" first; one that cannot be made here is left out, one that fails is reported. The calls
of a case are timed in alternation, on a GPU as the device works for them, each after the cache was overwritten; median
and p10 - p90 of one call in ms, and the ratio of each to "triton": above 1, the kernel is faster. Where the operation
runs by torch too, that ratio is a row of the table that "auto" reads (searchspace.kernels.choice).
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictors.device import device_name, software
from predictors.timing import Call, cpu_clock, overwritten
from searchspace.kernels import choice, dispatch
from searchspace.kernels.choice import Asked, Row
from tests.searchspace.kernels.worker import ROOT, serve, worker

WHEELS = ROOT / "out" / "gpu-wheels"  # filled by `make gpu-wheels`
ROUNDS = 20
SECONDS = 240.0
ALTERNATIVES = ("torch", "torch under a mask")  # what the operation runs by where torch is selected
MIN_SPIN_CYCLES, MAX_SPIN_CYCLES = 1_000_000, 1_000_000_000  # half a millisecond to half a second
SECONDS_PER_CASE = 1.5  # of timing, without what compiling takes


@dataclass(frozen=True)
class Case:
    """phase: forward, train (forward and backward) or decode (one token from a state)."""

    name: str
    phase: str
    make: Callable[[str], Mapping[str, Call]]


def cases() -> dict[str, Case]:
    """By name and phase, the cases of each file in turn, so that a run that ends early has some of each."""
    files = sorted(Path(__file__).parent.glob("cases_*.py"))
    lists = [list(importlib.import_module(f"tests.gpu.{f.stem}").CASES) for f in files]
    longest = max(map(len, lists), default=0)
    found = [cases[i] for i in range(longest) for cases in lists if i < len(cases)]
    return {f"{case.name} {case.phase}": case for case in found}


def time_case(name: str, device: str) -> dict[str, Any]:
    """Implementation -> median, p10, p90 in ms, samples; or the error of one that did not run."""
    rows: dict[str, Any] = {}
    calls: dict[str, Call] = {}
    asked: list[Asked] = []
    for implementation, call in cases()[name].make(device).items():
        try:
            with dispatch.asked() as found:
                call()
            asked = found if implementation == "triton" else asked
            call()
        except Exception as error:
            rows[implementation] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        else:
            calls[implementation] = call
    samples: dict[str, list[float]] = {implementation: [] for implementation in calls}
    start, rounds = time.monotonic(), 3 if device == "cpu" else ROUNDS
    for done in range(rounds):
        for implementation, call in calls.items():
            samples[implementation].append(_milliseconds(call, device))
        if time.monotonic() - start > SECONDS_PER_CASE and done + 1 >= 5:
            break
    for implementation, times in samples.items():
        p10, median, p90 = np.percentile(times, (10, 50, 90)).tolist()
        rows[implementation] = {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "samples": len(times)}
    if "triton" in samples and len(set(asked)) == 1:
        rows["triton"]["asked"] = vars(asked[0])
    return rows


def _milliseconds(call: Call, device: str) -> float:
    if device == "cuda":
        return _cuda_work(call)
    clock = cpu_clock()
    start = clock()
    call()
    return (clock() - start) / 1e6


def _cuda_work(call: Call) -> float:
    """Milliseconds that the device works for one call, from a cache that holds nothing of it; launches cost nothing.

    They are queued while the device spins, longer and longer until it is still spinning when all are queued.
    """
    cycles = MIN_SPIN_CYCLES
    while True:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        overwritten(torch.cuda.current_device()).zero_()
        start.record()
        call()
        end.record()
        is_queued = not start.query()
        end.synchronize()
        if is_queued or cycles >= MAX_SPIN_CYCLES:
            return start.elapsed_time(end)
        cycles *= 4


def benchmark(device: str, out: Path, deadline: float) -> dict[str, Any]:
    """Every case, kept as it is done in benchmark_cases.json, and the table of all in benchmark.md."""
    kept = out / "benchmark_cases.json"
    rows: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    stop = min(deadline, time.monotonic() + SECONDS)
    wanted = cases()
    waiting = [name for name in wanted if name not in rows]
    while waiting and time.monotonic() < stop:
        with worker("tests.gpu.benchmark", device, WHEELS) as ask:
            while waiting and time.monotonic() < stop:
                name = waiting.pop(0)
                rows[name] = ask(f"{device} {name}")
                kept.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
                if "error" in rows[name]:
                    break  # a device error stays with the process: the next case gets a new one
    (out / "benchmark.md").write_text(table(rows), encoding="utf-8")
    if device == "cuda":
        about = {"device": device_name(device), "software": software()}
        measured = about | {"rows": [row.to_json() for row in choices(rows)]}
        path = out / choice.file_name(device_name(device))
        path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    failures = {
        f"{name} triton": reply["error"]
        for name, row in rows.items()
        for reply in (row.get("triton", row),)
        if "error" in reply
    }
    return {
        "cases": len(wanted),
        "reached": len(rows),
        "failures": failures,
        "ratios": summary(rows),
        "rows": rows,
    }


def choices(rows: Mapping[str, Any]) -> list[Row]:
    """What "auto" reads, of the cases of one operation that ran by its kernel and by torch."""
    found = []
    for row in rows.values():
        ours = row.get("triton", {})
        others = [row[n]["median_ms"] for n in ALTERNATIVES if "median_ms" in row.get(n, {})]
        if "asked" in ours and others:
            found.append(Row(Asked(**ours["asked"]), min(others) / ours["median_ms"]))
    return found


def summary(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Phase and implementation -> geometric mean of its ratios to the kernel, and the worst with its case."""
    ratios: dict[str, dict[str, float]] = {}
    for name, row in rows.items():
        for implementation, found in row.items():
            if implementation != "triton" and "median_ms" in found and "median_ms" in row.get("triton", {}):
                group = ratios.setdefault(f"{name.split()[-1]} against {implementation}", {})
                group[name] = found["median_ms"] / row["triton"]["median_ms"]
    return {
        group: {
            "geometric_mean": float(np.exp(np.mean(np.log(list(found.values()))))),
            "worst": min(found.values()),
            "worst_case": min(found, key=lambda name: found[name]),
            "cases": len(found),
        }
        for group, found in ratios.items()
    }


def table(rows: Mapping[str, Any]) -> str:
    lines = [
        "| case | implementation | median (ms) | p10 - p90 | ratio to triton |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if isinstance(row.get("error"), str):
            lines.append(f"| {name} | all | {row['error']} | | |")
            continue
        ours = row.get("triton", {}).get("median_ms")
        for implementation, found in row.items():
            if "error" in found:
                lines.append(f"| {name} | {implementation} | {found['error']} | | |".replace("\n", " "))
                continue
            ratio = f"{found['median_ms'] / ours:.2f}" if ours else ""
            spread = f"{found['p10_ms']:.4g} - {found['p90_ms']:.4g}"
            lines.append(f"| {name} | {implementation} | {found['median_ms']:.4g} | {spread} | {ratio} |")
    return "\n".join(lines) + "\n"


def _answer(request: str) -> dict[str, Any]:
    device, name = request.split(" ", 1)
    return time_case(name, device)


if __name__ == "__main__":
    serve(_answer)
