"""How busy a searcher keeps many workers: a discrete-event simulation in which only the searcher's time is real.

One driver proposes trials one by one, each at the CPU time that the proposal took here; an evaluation takes a given
time on a worker; results are told in number order under the lag rule. As with the Ray runner, IN_FLIGHT trials per
worker are in progress, so that a finished worker has its next one. The driver's other work per trial, mainly in the
database, is a constant.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass

import numpy as np

from nas.execution.runner import IN_FLIGHT
from nas.searchers.base import Observation, Searcher, SpaceExhausted
from nas.simulation.tabulated import Tabulated
from searchspace.spec.genome import Genome
from studies.pareto import Points
from studies.records import TrialState

RECORD_SECONDS = (
    0.002  # measured: 1.1 to 2.2 ms where trials end one by one, less where several are recorded together
)
SPREAD = 0.1  # standard deviation of the logarithm of a trial's duration


@dataclass(frozen=True)
class Schedule:
    """`busy_ratio`: share of the workers' time spent evaluating until the last trial started."""

    workers: int
    seconds: float
    lag: int
    makespan: float
    busy_ratio: float
    driver_ms_per_trial: float


def schedule(
    searcher: Searcher,
    problem: Tabulated,
    evaluations: int,
    workers: int,
    seconds: float,
    lag: int,
    seed: int,
) -> tuple[Schedule, Points]:
    """Return the schedule, and losses [n, M] by trial number. A `lag` of at least `workers` keeps all of them busy."""
    rng = np.random.default_rng([seed, workers])
    now = 0.0  # time of the driver
    running: list[tuple[float, int]] = []  # end, number
    free = [0.0] * workers  # time at which each worker is free
    genomes: list[Genome] = []
    losses: list[Points] = []
    finished: set[int] = set()
    num_told, driver, begun, spent = 0, 0.0, 0.0, 0.0
    for number in range(evaluations):
        while len(running) == IN_FLIGHT * workers or not finished.issuperset(range(num_told, number - lag)):
            end, ended = heapq.heappop(running)
            finished.add(ended)
            now = max(now, end)
        start = time.process_time()
        while num_told < number - lag:
            searcher.tell(
                Observation(num_told, genomes[num_told], losses[num_told], 0.0, TrialState.COMPLETE)
            )
            num_told += 1
        try:
            arch = searcher.ask(number).arch
        except SpaceExhausted:
            break
        cost = time.process_time() - start + RECORD_SECONDS
        now, driver = now + cost, driver + cost
        genomes.append(searcher.encoding.encode(arch))
        losses.append(problem.loss(genomes[-1]))
        duration = seconds * float(np.exp(SPREAD * rng.standard_normal()))
        begun, spent = max(now, free[0]), spent + duration
        heapq.heapreplace(free, begun + duration)
        heapq.heappush(running, (begun + duration, number))
    unfinished = sum(max(0.0, end - begun) for end in free)
    makespan = max(now, *free)
    busy = (spent - unfinished) / (workers * begun) if begun else 0.0
    made = Schedule(workers, seconds, lag, makespan, busy, 1e3 * driver / max(1, len(losses)))
    return made, np.array(losses).reshape(-1, len(problem.goals))
