"""NSGA-II, one trial at a time: when a result enters, the member that ranks last by dominance and crowding leaves.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, with mu + 1 survival, uniform
crossover of decisions in use and mutation. The first population covers depths and widths evenly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.searchers.base import Observation, Problem, Searcher
from nas.searchers.ranking import positions
from nas.searchers.spread import Spread
from searchspace.spec.genome import Genome

POPULATION_SIZE = 32
CROSSOVER_RATE = 0.9
_SURVIVAL = 2  # random stream, separate from that of `ask`


class Nsga2Searcher(Searcher):
    num_tries = 8

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._first = Spread(problem, POPULATION_SIZE)
        self._population: list[Observation] = []  # best first
        self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        if number < POPULATION_SIZE or len(self._population) < 2:
            return self._first(number, rng), "random", ()
        drawn = rng.integers(0, len(self._population), size=(2, 2)).min(axis=1)
        first, second = (self._population[i] for i in drawn)
        genes = np.array(first.genome)
        if rng.random() < CROSSOVER_RATE:
            genes = self.cross(genes, np.array(second.genome), rng)
        return self.child(genes, rng), "nsga2", tuple(sorted({first.number, second.number}))

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        self._num_told = trial.number + 1
        if trial.is_ranked:
            members = [*self._population, trial]
            lot = np.random.default_rng([self.problem.seed, trial.number, _SURVIVAL])
            order = np.argsort(positions(members, lot))[:POPULATION_SIZE]
            self._population = [members[i] for i in order.tolist()]

    def state(self) -> dict[str, Any]:
        numbers = sorted(t.number for t in self._population)
        return {"version": 1, "num_told": self._num_told, "population": numbers}
