"""Local search: tries every change of one decision of every member of the current front, in random order.

White et al., "Exploring the Loss Landscape in Neural Architecture Search", 2021; with several objectives the front
takes the role of the best architecture, as in Paquete et al., "Pareto Local Optimum Sets in the Biobjective Traveling
Salesman Problem", 2004. A member is selected at random, with higher probability in a less crowded part of the front.
Members whose neighbours have all been tried are skipped; if that holds for all, the search proposes a random
architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nas.searchers.base import Observation, Problem, Searcher, as_genome
from nas.searchers.ranking import distances
from searchspace.spec.genome import Genome, Genomes

NUM_RANDOM_FIRST = 16
_NEIGHBOURS = 4  # random stream, separate from that of `ask`


class LocalSearcher(Searcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._front: list[Observation] = []
        self._done: set[int] = set()  # members whose neighbours were all proposed or are invalid
        self._num_told = 0

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        return self.random(rng), "random", ()

    def candidates(
        self, number: int, rng: np.random.Generator
    ) -> Iterator[tuple[Genome, str, tuple[int, ...]]]:
        if number >= NUM_RANDOM_FIRST and self._front:
            for i in self._order(rng):
                member = self._front[i]
                if member.number in self._done:
                    continue
                # a separate generator, so that skipping a member does not affect the others
                order = np.random.default_rng([self.problem.seed, number, member.number])
                for neighbour in order.permutation(self.neighbours(member)):
                    yield as_genome(neighbour), "local", (member.number,)
                self._done.add(member.number)
        yield from super().candidates(number, rng)

    def _order(self, rng: np.random.Generator) -> list[int]:
        """The indices of the members in random order; those in a less crowded part of the front tend to come first."""
        room = distances(np.array([m.losses for m in self._front]), np.zeros(len(self._front)))
        largest = room.max(initial=0.0, where=np.isfinite(room))
        room = np.where(np.isfinite(room), room, largest or 1.0)
        return [int(i) for i in np.argsort(-room * rng.random(len(room)), kind="stable")]

    def neighbours(self, member: Observation) -> Genomes:
        """Canonical genomes [n, V] with one decision in use changed; decisions that come into use are random.

        They are determined by the seed and the trial, so that one can tell when all have been proposed.
        """
        stream = np.random.default_rng([self.problem.seed, member.number, _NEIGHBOURS])
        genome = np.array(member.genome)
        used = self.encoding.in_use(genome[None])[0]
        filled = np.where(used, genome, stream.integers(0, self.encoding.num_values))
        changes = [
            (i, value)
            for i in np.flatnonzero(used)
            for value in range(self.encoding.num_values[i])
            if value != genome[i]
        ]
        found = np.repeat(filled[None], len(changes), axis=0)
        for row, (i, value) in zip(found, changes, strict=True):
            row[i] = value
        return self.encoding.canonical(found)

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        self._num_told = trial.number + 1
        if trial.is_ranked and not any(_is_as_good(member, trial) for member in self._front):
            self._front = [m for m in self._front if not _is_as_good(trial, m)] + [trial]
            self._done &= {m.number for m in self._front}

    def state(self) -> dict[str, Any]:
        numbers = [member.number for member in self._front]
        return {"version": 1, "num_told": self._num_told, "front": numbers}


def _is_as_good(a: Observation, b: Observation) -> bool:
    """Whether `a` has no more violation than `b` or, if both meet the bounds, no larger loss in any objective."""
    if a.violation or b.violation:
        return a.violation <= b.violation
    return bool((a.losses <= b.losses).all())
