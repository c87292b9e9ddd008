"""Latency estimated from peak rates alone, for a device on which no operator was measured.

    t = calls o + max(flops / F, product bytes / B) + other bytes / B

F is the FLOPs of matrix products per second, B the bytes moved per second, o the seconds per call: from a data sheet,
or from `measured_rates`, which takes half a second. Williams et al., "Roofline", CACM 2009, plus the overhead of the
separate calls of an eager runtime. It is meant for ranking; `nas predict evaluate` shows its error in milliseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from predictors.rates import Rates
from predictors.timing import num_threads
from predictors.work import Work, work
from searchspace.spec.arch import ArchSpec
from searchspace.spec.workload import Workload

REPEATS = 5


def seconds(done: Work, rates: Rates) -> float:
    products = max(done.flops / rates.flops, done.product_bytes / rates.bytes)
    return done.calls * rates.call + products + done.other_bytes / rates.bytes


def estimate_ms(arch: ArchSpec, workload: Workload, rates: Rates) -> float:
    """Return the estimated latency in ms. Raises ValueError as `work` does."""
    return 1e3 * seconds(work(arch, workload), rates)


def measured_rates(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 512) -> Rates:
    """Measure this device on one thread, by a matrix product, a sum of two long vectors and one of two short ones."""
    with num_threads(1):
        return _measured(device, dtype, size)


def _measured(device: str, dtype: torch.dtype, size: int) -> Rates:
    square, long, short = (
        torch.ones(shape, device=device, dtype=dtype) for shape in ((size, size), size**2, 1)
    )
    call = _fastest(lambda: short + short, device)
    product, added = _fastest(lambda: square @ square, device), _fastest(lambda: long + long, device)
    moved = 3 * long.numel() * long.element_size()
    return Rates(2 * size**3 / max(product - call, call), moved / max(added - call, call), call)


def _fastest(run: Callable[[], object], device: str) -> float:
    """Seconds per call in the fastest of REPEATS runs of many calls; on a CPU, this process's CPU time."""
    count, best, clock = 50, math.inf, time.process_time if device == "cpu" else time.perf_counter
    for _ in range(REPEATS):
        start = clock()
        for _ in range(count):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (clock() - start) / count)
    return best
