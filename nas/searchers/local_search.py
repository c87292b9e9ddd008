"""Local search: every change of one decision of every member of the front so far, in random order.

White et al., "Exploring the Loss Landscape in Neural Architecture Search", 2021; with several objectives the place of
the best architecture is taken by the front, as in Paquete et al., "Pareto Local Optimum Sets in the Biobjective
Traveling Salesman Problem", 2004. A member is taken by chance, the likelier the more room it has on the front; one
whose neighbours have all been tried is left out, and where that holds for all, the search starts again from a random
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
_NEIGHBOURS = 4  # a stream of randomness beside that of `ask`


class LocalSearcher(Searcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._front: list[Observation] = []
        self._done: set[int] = set()  # members of which every neighbour was proposed or is invalid
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
                # a generator of its own, so that leaving out a member changes nothing for the others
                order = np.random.default_rng([self.problem.seed, number, member.number])
                for neighbour in order.permutation(self.neighbours(member)):
                    yield as_genome(neighbour), "local", (member.number,)
                self._done.add(member.number)
        yield from super().candidates(number, rng)

    def _order(self, rng: np.random.Generator) -> list[int]:
        """The members by chance, one with more room around it on the front is likelier to come early."""
        room = distances(np.array([m.losses for m in self._front]), np.zeros(len(self._front)))
        largest = room.max(initial=0.0, where=np.isfinite(room))
        room = np.where(np.isfinite(room), room, largest or 1.0)
        return [int(i) for i in np.argsort(-room * rng.random(len(room)), kind="stable")]

    def neighbours(self, member: Observation) -> Genomes:
        """Canonical genomes with one decision in use changed, [n, V]; decisions that thereby appear are random.

        They are a function of the seed and the trial, so that it is known when all have been proposed.
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
    """Whether `a` makes `b` dispensable: less violation, or within the bounds nowhere worse."""
    if a.violation or b.violation:
        return a.violation <= b.violation
    return bool((a.losses <= b.losses).all())
