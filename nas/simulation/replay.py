"""A searcher run on a table: the engine's order of calls without a database, workers or time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation, Problem, Searcher, SpaceExhausted
from nas.searchers.registry import make_searcher
from nas.simulation.tabulated import Tabulated
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Genome
from studies.pareto import Points
from studies.records import TrialState


@dataclass(frozen=True)
class Replay:
    """`losses` [n, M] in order of number; `seconds` [n] is the processor time that telling and asking took."""

    losses: Points
    seconds: NDArray[np.float64]


def make(searcher: str, problem: Tabulated, seed: int) -> Searcher:
    return make_searcher(searcher, Problem(problem.encoding, len(problem.goals), seed, _accept))


def replay(searcher: Searcher, problem: Tabulated, evaluations: int, lag: int) -> Replay:
    """Trial n is proposed from the results of the trials 0 .. n - lag - 1. Ends early where a space is exhausted."""
    genomes: list[Genome] = []
    losses: list[Points] = []
    seconds = []
    for number in range(evaluations):
        start = time.process_time()
        if (told := number - lag - 1) >= 0:
            searcher.tell(Observation(told, genomes[told], losses[told], 0.0, TrialState.COMPLETE))
        try:
            arch = searcher.ask(number).arch
        except SpaceExhausted:
            break
        seconds.append(time.process_time() - start)
        genomes.append(searcher.encoding.encode(arch))
        losses.append(problem.loss(genomes[-1]))
    return Replay(np.array(losses).reshape(-1, len(problem.goals)), np.array(seconds))


def volumes(problem: Tabulated, losses: Points, counts: Sequence[int]) -> list[float]:
    """Hypervolume of the first losses, up to each of the given counts. `losses` [n, m]."""
    return [problem.hypervolume(losses[:count]) for count in counts]


def _accept(arch: ArchSpec) -> None:
    return None
