"""Runs a searcher on a table, with the engine's order of calls but without a database, workers or waiting."""

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
    """`losses` [n, M] by number of trial; `seconds` [n] is the processor time of telling and asking."""

    losses: Points
    seconds: NDArray[np.float64]


def make(searcher: str, problem: Tabulated, seed: int) -> Searcher:
    return make_searcher(searcher, Problem(problem.encoding, len(problem.goals), seed, _accept))


def replay(searcher: Searcher, problem: Tabulated, evaluations: int, lag: int) -> Replay:
    """Propose trial n from the results of the trials 0 .. n - lag - 1; ends early if the space is exhausted."""
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
    """The hypervolume of the first `count` rows of losses [n, M], for each of `counts`."""
    return [problem.hypervolume(losses[:count]) for count in counts]


def _accept(arch: ArchSpec) -> None:
    return None
