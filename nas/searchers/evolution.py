"""Regularized evolution: a tournament selects the parent, and the oldest member leaves, however good it is.

Real et al., "Regularized Evolution for Image Classifier Architecture Search", 2019. With several objectives the
winner of a tournament is on the lowest Pareto front of the population and, among equals, the least crowded.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation, Problem, Searcher
from nas.searchers.ranking import positions
from searchspace.spec.genome import Genome

POPULATION_SIZE = 64
TOURNAMENT_SIZE = 16
_RANK = 3  # random stream, separate from that of `ask`


class EvolutionSearcher(Searcher):
    num_tries = 8

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._population: deque[Observation] = deque(maxlen=POPULATION_SIZE)
        self._places: NDArray[np.int64] | None = None
        self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        if len(self._population) < min(POPULATION_SIZE, TOURNAMENT_SIZE):
            return self.random(rng), "random", ()
        parent = self._win(rng)
        return self.child(np.array(parent.genome), rng), "evolution", (parent.number,)

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        self._num_told = trial.number + 1
        if trial.is_ranked:
            self._population.append(trial)
            self._places = None

    def state(self) -> dict[str, Any]:
        numbers = [t.number for t in self._population]
        return {"version": 1, "num_told": self._num_told, "population": numbers}

    def _win(self, rng: np.random.Generator) -> Observation:
        if self._places is None:
            stream = np.random.default_rng([self.problem.seed, self._num_told, _RANK])
            self._places = positions(self._population, stream)
        drawn = rng.choice(len(self._population), size=TOURNAMENT_SIZE, replace=False)
        return self._population[drawn[np.argmin(self._places[drawn])]]
