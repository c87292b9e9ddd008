"""Timing for shared machines: every subject is timed in alternation with a reference network.

A processor that runs at half speed for a second doubles both sides of a ratio. One round is

    R s_1 R s_2 R ... s_n R          s_i the subjects in a new random order, R one sample of the reference

and the ratio of s_i is its sample over the median of the four nearest reference samples, two on each side: close enough
to share a drifting speed, and robust to one interrupted sample. The result is the median of a subject's ratios over all
rounds. A latency in milliseconds is that ratio times a *nominal* reference latency, which the device's profile states:
two latencies of one profile compare like their ratios, whenever they were measured.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Call = Callable[[], Any]
Stopwatch = Callable[[Call, int], float]

MIN_SAMPLE_MS = 0.2  # shorter calls are looped within a sample: reading the clock costs up to a microsecond
MIN_ROUNDS = 5
MAX_RUNS = 3
MAX_SPREAD = 1.3  # p90 / p10 of the reference, above which a run is repeated
CACHE_BYTES = 256 * 1024 * 1024  # more than the L2 cache of any device
UNSTABLE_SPREAD = 1.9  # above it, ratios are unreliable; below it, those of two runs differ by 2 %


@dataclass(frozen=True)
class Timing:
    """Timing of one subject: milliseconds per call, and `ratio` with its percentiles in multiples of the reference.

    `spread` is p90 / p10 of the reference in the run with the smallest spread; above UNSTABLE_SPREAD the speed counts
    as
    unstable, which the measurement's method records.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    samples: int
    reference_ms: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    spread: float

    @property
    def is_stable(self) -> bool:
        return self.spread <= UNSTABLE_SPREAD


@dataclass(frozen=True)
class _Run:
    """Samples of one run: subject times [rounds] by name, and the reference times before, between and after them.

    `places` are the indices [rounds] of the reference sample directly before each subject sample.
    """

    times: dict[str, list[float]]
    places: dict[str, list[int]]
    reference: list[float]

    def ratios(self, name: str) -> list[float]:
        around = [self.reference[max(0, i - 1) : i + 3] for i in self.places[name]]
        return [t / float(np.median(near)) for t, near in zip(self.times[name], around, strict=True)]

    @property
    def spread(self) -> float:
        p10, p90 = np.percentile(self.reference, (10, 90))
        return float(p90 / p10)


def time_interleaved(
    subjects: Mapping[str, Call],
    reference: Call,
    *,
    device: str = "cpu",
    samples: int = 30,
    seconds: float = math.inf,
    seed: int = 0,
    clock: Callable[[], int] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time every subject in up to `samples` rounds; `on_round` receives (rounds done, rounds planned).

    Rounds stop after `seconds`, but not before MIN_ROUNDS. A run whose reference spreads by more than MAX_SPREAD is
    repeated if the seconds allow it. `clock` counts nanoseconds on a CPU; cuda is timed with CUDA events.
    """
    begun = time.perf_counter()
    stopwatch = cuda_latency if device == "cuda" else _looped(clock or cpu_clock())

    def elapsed() -> float:
        return time.perf_counter() - begun

    with torch.inference_mode(), _no_garbage_collection():
        reference_loops = _loops(warm_up(reference, stopwatch))
        loops = {name: _loops(warm_up(call, stopwatch)) for name, call in subjects.items()}
        best: _Run | None = None
        for attempt in range(MAX_RUNS):
            rng, before = np.random.default_rng([seed, attempt]), elapsed()
            run = _Run({n: [] for n in subjects}, {n: [] for n in subjects}, [])
            for done in range(samples):
                _round(run, subjects, loops, reference, reference_loops, stopwatch, rng)
                if on_round is not None:
                    on_round(done + 1, samples)
                if elapsed() > seconds and done + 1 >= MIN_ROUNDS:
                    break
            best = run if best is None or run.spread < best.spread else best
            if best.spread <= MAX_SPREAD or elapsed() + (elapsed() - before) > seconds:
                break
    assert best is not None
    return {name: _timing(best, name) for name in subjects}


def _round(
    run: _Run,
    subjects: Mapping[str, Call],
    loops: Mapping[str, int],
    reference: Call,
    reference_loops: int,
    stopwatch: Stopwatch,
    rng: np.random.Generator,
) -> None:
    names = list(subjects)
    run.reference.append(stopwatch(reference, reference_loops))
    for index in rng.permutation(len(names)).tolist():
        name = names[index]
        run.places[name].append(len(run.reference) - 1)
        run.times[name].append(stopwatch(subjects[name], loops[name]))
        run.reference.append(stopwatch(reference, reference_loops))


def _timing(run: _Run, name: str) -> Timing:
    p10, median, p90 = np.percentile(run.times[name], (10, 50, 90)).tolist()
    ratio_p10, ratio, ratio_p90 = np.percentile(run.ratios(name), (10, 50, 90)).tolist()
    reference_ms = float(np.median(run.reference))
    samples = len(run.times[name])
    return Timing(median, p10, p90, samples, reference_ms, ratio, ratio_p10, ratio_p90, run.spread)


def warm_up(call: Call, stopwatch: Stopwatch, max_calls: int = 20) -> float:
    """Call until two consecutive calls fail to beat the best one by a tenth. Returns the best time in ms."""
    best, settled = stopwatch(call, 1), 0
    for _ in range(max_calls - 1):
        sample = stopwatch(call, 1)
        settled = settled + 1 if sample > 0.9 * best else 0
        best = min(best, sample)
        if settled == 2:
            break
    return best


def _loops(call_ms: float) -> int:
    return max(1, min(1000, math.ceil(MIN_SAMPLE_MS / max(call_ms, 1e-6))))


def _looped(clock: Callable[[], int]) -> Stopwatch:
    def stopwatch(call: Call, loops: int) -> float:
        start = clock()
        for _ in range(loops):
            call()
        return (clock() - start) / loops / 1e6

    return stopwatch


def cpu_clock() -> Callable[[], int]:
    """Return the clock, in ns, for torch's current number of threads.

    For one thread it is the thread's CPU clock, which equals wall time on a free core and excludes the time of other
    programs on that core. For several threads only the wall clock covers them all.
    """
    return time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns


def cuda_latency(call: Call, loops: int) -> float:
    """Return milliseconds per call as seen by a waiting program, including launch overhead.

    Measured from an idle device with an emptied cache to the end of the last of `loops` consecutive calls.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    overwritten(torch.cuda.current_device()).zero_()
    torch.cuda.synchronize()
    start.record()
    for _ in range(loops):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / loops


@lru_cache
def overwritten(device: int) -> torch.Tensor:
    """Return an int8 buffer [CACHE_BYTES], larger than the cache of that CUDA device: writing it empties the cache."""
    return torch.empty(CACHE_BYTES, dtype=torch.int8, device=f"cuda:{device}")


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Run torch on `count` CPU threads, then restore the previous number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
