"""An adapter of pymoo's evolutionary algorithms to integer genomes: their survival and mating selection.

    nsga3     Deb and Jain, "An Evolutionary Many-Objective Optimization Algorithm ... Part I", 2014
    unsga3    Seada and Deb, "A Unified Evolutionary Optimization Procedure", 2016
    age2      Panichella, "An Improved Pareto Front Modeling Algorithm for Large-Scale Optimization", 2022
    smsemoa   Beume et al., "SMS-EMOA: Multiobjective Selection Based on Dominated Hypervolume", 2007
    rvea      Cheng et al., "A Reference Vector Guided Evolutionary Algorithm", 2016

The population is a function of the results told so far, which enter the survival in order of their numbers, one by one
(SMS-EMOA, mu + 1) or a generation at a time. So the time at which they are told does not matter, and telling them
again rebuilds an algorithm's state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.core.survival import Survival
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.dominator import Dominator

from nas.searchers.base import Observation, Problem, Searcher
from nas.searchers.spread import Spread
from searchspace.spec.genome import Genome

CROSSOVER_RATE = 0.9
# RVEA's penalty grows with the finished share of the search. Since a study can always be extended, the share is that
# of a fixed number of generations, enough for most searches.
RVEA_GENERATIONS = 80
_SURVIVAL = 2  # random stream, separate from that of `ask`


@dataclass(frozen=True)
class _Shape:
    """The part of a pymoo problem that a survival reads."""

    n_obj: int

    def has_constraints(self) -> bool:
        return True


@dataclass(frozen=True)
class _Algorithm:
    """`survival(num_objectives, size)` makes the survival, which `batch` results enter at a time.

    `key` gives the sort key of the first of two feasible parents; smaller is better.
    """

    survival: Callable[[int, int], Survival]
    key: Callable[[Individual, Individual], tuple[float, ...]]
    size: int
    batch: int = 8


def _nsga3(num_objectives: int, size: int) -> Survival:
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival

    return ReferenceDirectionSurvival(_directions(num_objectives, size))


def _age2(_: int, __: int) -> Survival:
    from pymoo.algorithms.moo.age2 import AGEMOEA2Survival

    return AGEMOEA2Survival()


def _smsemoa(_: int, __: int) -> Survival:
    from pymoo.algorithms.moo.sms import LeastHypervolumeContributionSurvival

    return LeastHypervolumeContributionSurvival()


def _rvea(num_objectives: int, size: int) -> Survival:
    from pymoo.algorithms.moo.rvea import APDSurvival

    return APDSurvival(_directions(num_objectives, size))


def _by_rank(a: Individual, _: Individual) -> tuple[float, ...]:
    """Prefers an earlier front, then less crowding."""
    return float(a.get("rank")), -float(a.get("crowding"))


def _by_niche(a: Individual, b: Individual) -> tuple[float, ...]:
    """Within a niche, prefers an earlier front, then a smaller distance to the niche's direction."""
    if a.get("niche") != b.get("niche"):
        return ()
    return float(a.get("rank")), float(a.get("dist_to_niche"))


def _by_dominance(a: Individual, b: Individual) -> tuple[float, ...]:
    return (-float(Dominator.get_relation(a.F, b.F)),)


def _by_lot(_: Individual, __: Individual) -> tuple[float, ...]:
    return ()


ALGORITHMS = {
    "nsga3": _Algorithm(_nsga3, _by_lot, 16),
    "unsga3": _Algorithm(_nsga3, _by_niche, 16),
    "age2": _Algorithm(_age2, _by_rank, 16),
    "smsemoa": _Algorithm(_smsemoa, _by_dominance, 16, batch=1),
    "rvea": _Algorithm(_rvea, _by_lot, 32),
}


class PymooSearcher(Searcher):
    num_tries = 8

    def __init__(self, problem: Problem, name: str = "nsga3") -> None:
        super().__init__(problem)
        self._name, self._algorithm = name, ALGORITHMS[name]
        self._survival = self._algorithm.survival(problem.num_objectives, self._algorithm.size)
        self._tournament = TournamentSelection(func_comp=self._winners)
        self._population = Population()
        self._entering: list[Individual] = []
        self._first = Spread(problem, self._algorithm.size)
        self._num_survivals = self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        if number < self._algorithm.size or len(self._population) < 2:
            return self._first(number, rng), "random", ()
        pair = self._tournament.do(None, self._population, 1, 2, random_state=rng, to_pop=False)[0]
        first, second = (self._population[i] for i in pair)
        genes = self.cross(first.X, second.X, rng) if rng.random() < CROSSOVER_RATE else first.X
        parents = tuple(sorted({int(first.get("number")), int(second.get("number"))}))
        return self.child(genes, rng), self._name, parents

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        self._num_told = trial.number + 1
        if not trial.is_ranked:
            return
        losses = np.where(np.isfinite(trial.losses), trial.losses, np.inf)
        individual = Individual(X=np.array(trial.genome), F=losses, CV=np.array([trial.violation]))
        individual.set("number", trial.number)
        self._entering.append(individual)
        if len(self._entering) == self._algorithm.batch:
            self._survive(trial.number)
            self._entering = []

    def state(self) -> dict[str, Any]:
        numbers = sorted(int(individual.get("number")) for individual in self._population)
        return {"version": 1, "num_told": self._num_told, "population": numbers}

    def _survive(self, number: int) -> None:
        merged = Population.merge(self._population, Population.create(*self._entering))
        settings: dict[str, Any] = {}
        if self._name == "rvea":
            done = min(self._num_survivals, RVEA_GENERATIONS)
            settings = {"n_gen": done, "n_max_gen": RVEA_GENERATIONS}
        # pymoo divides by extents that can be 0, and changes the warning filters
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            self._population = self._survival.do(
                _Shape(self.problem.num_objectives),
                merged,
                n_survive=self._algorithm.size,
                random_state=np.random.default_rng([self.problem.seed, number, _SURVIVAL]),
                **settings,
            )
            self._num_survivals += 1
            if self._name == "rvea" and self._survival.nadir is not None:
                self._survival.adapt()

    def _winners(
        self, population: Population, pairs: NDArray[np.int64], random_state: np.random.Generator, **_: Any
    ) -> NDArray[np.int64]:
        """The winners [n, 1] of pairs [n, 2]: by violation, then by the algorithm's key, then at random."""
        return np.array([[self._winner(population, a, b, random_state)] for a, b in pairs])

    def _winner(self, population: Population, a: int, b: int, rng: np.random.Generator) -> int:
        first, second = population[a], population[b]
        violations = float(first.CV[0]), float(second.CV[0])
        one: tuple[float, ...] = (violations[0],)
        other: tuple[float, ...] = (violations[1],)
        if violations == (0.0, 0.0):
            one, other = self._algorithm.key(first, second), self._algorithm.key(second, first)
        return a if (*one, rng.random()) < (*other, rng.random()) else b


def _directions(num_objectives: int, size: int) -> NDArray[np.float64]:
    """Evenly spread directions [n, num_objectives], as many as a population of `size` allows."""
    from pymoo.util.ref_dirs import get_reference_directions

    if num_objectives == 1:
        return np.ones((1, 1))
    partitions = 1
    while comb(partitions + num_objectives, num_objectives - 1) <= size:
        partitions += 1
    directions = get_reference_directions("das-dennis", num_objectives, n_partitions=partitions)
    return np.asarray(directions, dtype=np.float64)
