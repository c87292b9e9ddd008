"""Constrained generative architecture search: maximizes a utility under bounds that tighten round by round.

Wong et al., "TurboViT: Generating Fast Vision Transformers via Generative Architecture Search", 2023, search for a
generator G that solves max U(G(s)) subject to constraints that hold for every seed s, and tighten these round by
round. Their generator is not published; here it is evolution with tournaments in which

    a network that meets all bounds beats one that does not; of two that do not, the one with less violation wins;
    of two that meet all bounds, the one with larger U wins;

    U = -(2 z_1 + (z_2 + ... + z_M) / 2)        z_j: j-th loss in standard deviations from the mean of the pool

with the weights of their U = 20 log10(quality^2 / sqrt(parameters flops)). The first objective is the quality, the
others are costs. A cost's bound starts at the largest cost on the current front and moves, in every round, 5 % of the
remaining distance towards the smallest. The seed of a proposal selects one of the bounds reached so far, so that the
whole front keeps being explored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation, Problem, Searcher
from nas.searchers.ranking import positions
from searchspace.spec.genome import Genome
from studies.pareto import Points, non_dominated

POOL_SIZE = 64
TOURNAMENT_SIZE = 8
ROUND = 8  # results per round
TIGHTEN = 0.05
MAX_ROUNDS = 48  # by then 9 % of the distance is left
CROSSOVER_RATE = 0.5
_SURVIVAL = 6  # random stream, separate from that of `ask`


class GenerativeSearcher(Searcher):
    num_tries = 8

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._pool: list[Observation] = []
        self._entering: list[Observation] = []
        self._num_rounds = self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        if len(self._pool) < 2 * TOURNAMENT_SIZE:
            return self.random(rng), "random", ()
        places = self.places(int(rng.integers(min(self._num_rounds, MAX_ROUNDS))))
        first, second = self._win(places, rng), self._win(places, rng)
        genes, parents = np.array(first.genome), {first.number}
        if rng.random() < CROSSOVER_RATE:
            genes = self.cross(genes, np.array(second.genome), rng)
            parents.add(second.number)
        return self.child(genes, rng), "generative", tuple(sorted(parents))

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        self._num_told = trial.number + 1
        if not trial.is_ranked:
            return
        self._entering.append(trial)
        if len(self._entering) == ROUND:
            merged = self._pool + self._entering
            stream = np.random.default_rng([self.problem.seed, trial.number, _SURVIVAL])
            self._pool = [merged[i] for i in np.flatnonzero(positions(merged, stream) < POOL_SIZE)]
            self._entering = []
            self._num_rounds += 1

    def state(self) -> dict[str, Any]:
        return {"version": 1, "num_told": self._num_told, "pool": [t.number for t in self._pool]}

    def places(self, num_tightened: int) -> NDArray[np.int64]:
        """The ranks [n] of the pool's members, 0 is best, under bounds that were tightened `num_tightened` times."""
        violation = np.array([t.violation for t in self._pool])
        feasible = violation == 0
        utility = np.zeros(len(self._pool))
        if feasible.any():
            points = np.array([t.losses for t in self._pool if not t.violation])
            scaled = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), 1e-12)
            utility[feasible] = -(2 * scaled[:, 0] + scaled[:, 1:].sum(axis=1) / 2)
            # violations of the study's bounds rank behind those of the search's bounds
            violation[~feasible] += points.shape[1]
            violation[feasible] = _excess(points, num_tightened)
        places = np.empty(len(self._pool), dtype=np.int64)
        places[np.lexsort((-utility, violation))] = np.arange(len(self._pool))
        return places

    def _win(self, places: NDArray[np.int64], rng: np.random.Generator) -> Observation:
        drawn = rng.choice(len(self._pool), size=TOURNAMENT_SIZE, replace=False)
        return self._pool[int(drawn[np.argmin(places[drawn])])]


def _excess(points: Points, num_tightened: int) -> Points:
    """Violations [n] of points [n, M]: each cost's excess over its bound in units of its range on the front, summed.

    Each cost adds at most 1.
    """
    costs = points[:, 1:]
    front = costs[non_dominated(points)]
    low, high = front.min(axis=0), front.max(axis=0)
    bound = low + (high - low) * (1 - TIGHTEN) ** num_tightened
    extent = np.maximum(high - low, 1e-12)
    return np.asarray(np.clip((costs - bound) / extent, 0.0, 1.0).sum(axis=1))
