"""Genomes of every size, from a space's smallest network to its largest; uniform genomes are nearly all of one size.

A uniform genome makes each decision at random, so with many blocks its size is close to the mean. A path goes from the
smallest genome S through a random one R to the largest L, one decision at a time in random order:

    genome at p:  R's decision where its rank is below 2 p, S's elsewhere        p in [0, 1/2]
                  L's decision where its rank is below 2 p - 1, R's elsewhere    p in [1/2, 1]

Ranks are uniform over [0, 1). Sizes thus grow along a path, and uniform p spreads them from end to end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from searchspace.spec.arch import NONE
from searchspace.spec.genome import Encoding, Genome, Variable

STEPS = 10  # genomes of a path that are measured in the search for a size
CLOSE = 0.01  # tolerance, relative to the range

Measure = Callable[[Genome], float]


@dataclass(frozen=True)
class Path:
    """Genes [V] of S, R and L, and the rank of each decision [V]."""

    encoding: Encoding
    smallest: NDArray[np.int64]
    middle: NDArray[np.int64]
    largest: NDArray[np.int64]
    ranks: NDArray[np.float64]

    def at(self, p: float) -> Genome:
        """Return the canonical genome at `p` in [0, 1]."""
        genes = np.where(self.ranks < 2 * p, self.middle, self.smallest)
        genes = np.where(self.ranks < 2 * p - 1, self.largest, genes)
        return canonical(self.encoding, genes)

    def within(self, measure: Measure, lower: float, upper: float, share: float) -> Genome:
        """Return the genome nearest to `share` of the way from `lower` to `upper`, each clipped to the path's ends.

        Where the path crosses the range between two decisions, the nearest one lies outside of it.
        """
        low, high = max(lower, measure(self.at(0.0))), min(upper, measure(self.at(1.0)))
        target, tolerance = low + share * (high - low), CLOSE * max(high - low, 0.0)
        start, end, best, distance = 0.0, 1.0, self.at(share), inf
        for _ in range(STEPS):
            p = (start + end) / 2
            genome = self.at(p)
            size = measure(genome)
            # a member of the range is preferred to a nearer genome outside it
            away = abs(size - target) + (0.0 if lower <= size <= upper else abs(upper - lower))
            if away < distance:
                best, distance = genome, away
            if distance <= tolerance:
                break
            start, end = (p, end) if size < target else (start, p)
        return best


class Sizes:
    """The ends of all paths of a space, and paths between them.

    Of numbers, the smallest and the largest; of operators, `none` is the smallest where it is offered. Other values
    have no order: a path keeps those of its random genome. Where the largest network is not valid, one kind of decision
    is changed in all blocks so that it is.
    """

    def __init__(self, encoding: Encoding, is_valid: Callable[[Genome], bool]) -> None:
        self.encoding = encoding
        variables = encoding.variables
        self._named = np.array([not _is_number(v) for v in variables])
        self._nothing = np.array([v.values.index(NONE.op) if NONE.op in v.values else -1 for v in variables])
        self._smallest = np.array([_smallest(v) for v in variables])
        self._largest = np.array([_largest(v) for v in variables])
        changed = (genes for genes in self._changed() if is_valid(canonical(encoding, genes)))
        self._largest = next(changed, self._largest)

    @property
    def largest(self) -> Genome:
        """The largest genome, with the operators that the space names first."""
        return canonical(self.encoding, self._largest)

    def path(self, rng: np.random.Generator, first_names: bool = False) -> Path:
        """Return a random path; with `first_names` its operators are `none` or those that the space names first."""
        middle = rng.integers(0, self.encoding.num_values)
        ranks = rng.random(len(middle))
        is_something = self._named & (middle != self._nothing)
        if first_names:
            middle = np.where(is_something, self._largest, middle)
        smallest = np.where(self._named & (self._nothing < 0), middle, self._smallest)
        largest = np.where(is_something, middle, self._largest)
        return Path(self.encoding, smallest, middle, largest, ranks)

    def smallest(self) -> list[Genome]:
        """The smallest genome, then variants with each operator that it leaves out, since it may be left with none."""
        genes = np.where(self._named & (self._nothing < 0), self._largest, self._smallest)
        found = [genes]
        for i in np.flatnonzero(self._named & (self._nothing >= 0)):
            changed = genes.copy()
            changed[i] = self._largest[i]
            found.append(changed)
        return list(dict.fromkeys(canonical(self.encoding, g) for g in found))

    def _changed(self) -> Iterator[NDArray[np.int64]]:
        """The largest genes [V], then variants with another value of one kind of decision wherever it is made."""
        yield self._largest
        kinds: dict[str, list[int]] = defaultdict(list)
        for i, variable in enumerate(self.encoding.variables):
            kinds[re.sub(r"\.\d+\.", ".*.", variable.name)].append(i)
        for places in kinds.values():
            for value in reversed(range(max(self.encoding.num_values[places]))):
                genes = self._largest.copy()
                genes[places] = np.minimum(value, self.encoding.num_values[places] - 1)
                yield genes


def canonical(encoding: Encoding, genes: NDArray[np.int64]) -> Genome:
    """Return each row of genes [n, V] in its canonical form [n, V]."""
    return tuple(encoding.canonical(genes[None])[0].tolist())


def _is_number(variable: Variable) -> bool:
    return all(isinstance(v, int | float) for v in variable.values)


def _smallest(variable: Variable) -> int:
    values = variable.values
    if _is_number(variable):
        return values.index(
            min(v for v in values if not _is_whole(variable, v)) if len(values) > 1 else values[0]
        )
    return values.index(NONE.op) if NONE.op in values else 0


def _largest(variable: Variable) -> int:
    """Index of the largest number, or of the first name that is an operator."""
    values = variable.values
    if _is_number(variable):
        return next((i for i, v in enumerate(values) if _is_whole(variable, v)), values.index(max(values)))
    return next((i for i, v in enumerate(values) if v != NONE.op), 0)


def _is_whole(variable: Variable, value: float) -> bool:
    """Whether it is a window of 0, which means all tokens."""
    return value == 0 and variable.name.endswith(".window")
