"""NSGA-II on integer genomes, one trial at a time (mu + 1), from pymoo's survival and tournament.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002. Steady state, because the
population that a trial descends from has to be a function of the results told so far, whenever they are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from nas.searchers.base import Problem, Searcher, Told, as_genome
from searchspace.spec.genome import Genome

POPULATION_SIZE = 32
CROSSOVER_RATE = 0.9
_FIRST, _SURVIVAL = 1, 2  # streams of randomness beside those of `ask`


@dataclass(frozen=True)
class _Bounds:
    """The part of a pymoo problem that the survival looks at."""

    def has_constraints(self) -> bool:
        return True


class NSGA2Searcher(Searcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._population = Population()
        self._survival = RankAndCrowding()
        self._tournament = TournamentSelection(func_comp=_better)
        self._first = self._spread_first()
        self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        if number < POPULATION_SIZE or len(self._population) < 2:
            return self._random(number, rng), "random", ()
        pair = self._tournament.do(None, self._population, 1, 2, random_state=rng, to_pop=False)[0]
        first, second = (self._population[i] for i in pair)
        genes = first.X[None]
        if rng.random() < CROSSOVER_RATE:
            genes = self._cross(first.X, second.X, rng)[None]
        rate = 1 / max(1, int(self.encoding.in_use(genes).sum()))
        parents = tuple(sorted({int(first.get("number")), int(second.get("number"))}))
        return as_genome(self.mutate(genes, rate, rng)[0]), "nsga2", parents

    def tell(self, trial: Told) -> None:
        self._num_told = trial.number + 1
        if not trial.is_ranked:
            return
        losses = np.where(np.isfinite(trial.losses), trial.losses, np.inf)
        individual = Individual(X=np.array(trial.genome), F=losses, CV=np.array([trial.violation]))
        individual.set("number", trial.number)
        merged = Population.merge(self._population, Population.create(individual))
        self._population = self._survival.do(
            _Bounds(),
            merged,
            n_survive=POPULATION_SIZE,
            random_state=np.random.default_rng([self.problem.seed, trial.number, _SURVIVAL]),
        )

    def state(self) -> dict[str, Any]:
        numbers = sorted(int(individual.get("number")) for individual in self._population)
        return {"version": 1, "num_told": self._num_told, "population": numbers}

    def _spread_first(self) -> dict[int, NDArray[np.int64]]:
        """For each gene of depth or width its values in the first trials: each about as often, shuffled."""
        spread = {}
        for i, variable in enumerate(self.encoding.variables):
            if variable.name == "d_model" or variable.name.endswith((".depth", ".width_ratio")):
                order = np.random.default_rng([self.problem.seed, i, _FIRST]).permutation(POPULATION_SIZE)
                spread[i] = order * len(variable.values) // POPULATION_SIZE
        return spread

    def _random(self, number: int, rng: np.random.Generator) -> Genome:
        genes = rng.integers(0, self.encoding.num_values)
        for i, values in self._first.items():
            genes[i] = values[number % POPULATION_SIZE]
        return as_genome(self.encoding.canonical(genes[None])[0])

    def _cross(
        self, a: NDArray[np.int64], b: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Each gene from either parent, or from the only one that uses it; random where neither does."""
        in_a, in_b = self.encoding.in_use(np.stack([a, b]))  # each [V]
        take_a = np.where(in_a == in_b, rng.random(len(a)) < 0.5, in_a)
        child = np.where(take_a, a, b)
        child = np.where(in_a | in_b, child, rng.integers(0, self.encoding.num_values))
        return np.asarray(self.encoding.canonical(child[None])[0])


def _better(
    population: Population, pairs: NDArray[np.int64], random_state: np.random.Generator, **_: Any
) -> NDArray[np.int64]:
    """The winner of each pair, [n, 1]: less violation, a lower front, a less crowded place, else by lot."""
    winners = [min(pair, key=lambda i: (*_rank(population[i]), random_state.random())) for pair in pairs]
    return np.array(winners)[:, None]


def _rank(individual: Individual) -> tuple[float, ...]:
    if individual.CV[0] > 0:
        return (float(individual.CV[0]),)
    return 0.0, float(individual.get("rank")), -float(individual.get("crowding"))
