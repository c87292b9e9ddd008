"""NSGA-II over genomes with vectorized losses, used to optimize predictions within a search.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, with uniform crossover and
mutation of decisions in use. Shapes: n genomes, V genes, M objectives to minimize.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.searchers.ranking import distances, fronts
from searchspace.spec.genome import Encoding, Genomes
from studies.pareto import Points

CROSSOVER_RATE = 0.9

Judge = Callable[[Genomes], Points]


def evolve(
    encoding: Encoding,
    judge: Judge,
    first: Genomes,
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> tuple[Genomes, Points]:
    """(distinct genomes [n, V] of the last generation, losses [n, M]), n at most `population`.

    `first` is the initial population; each generation has `population` children.
    """
    genomes, points = survive(first, judge(first), population)
    for _ in range(generations):
        children = vary(encoding, parents(points, population, rng), genomes, rng)
        merged = np.vstack([genomes, children])
        genomes, points = survive(merged, np.vstack([points, judge(children)]), population)
    return genomes, points


def survive(genomes: Genomes, points: Points, population: int) -> tuple[Genomes, Points]:
    """At most `population` distinct genomes [n, V] with points [n, M], best first by front, then crowding distance."""
    first = list({row.tobytes(): i for i, row in reversed(list(enumerate(genomes)))}.values())
    genomes, points = genomes[first], points[first]
    rank = fronts(points)
    order = np.lexsort((-distances(points, rank.astype(np.float64)), rank))[:population]
    return genomes[order], points[order]


def parents(points: Points, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices [count, 2] of pairs of parents, each the winner of a tournament of two; `points` are best first."""
    return np.asarray(rng.integers(0, len(points), size=(count, 2, 2)).min(axis=2))


def vary(encoding: Encoding, pairs: NDArray[np.int64], genomes: Genomes, rng: np.random.Generator) -> Genomes:
    """A child of each pair, [n, V]: uniform crossover of decisions in use, then `mutate`. pairs: [n, 2]."""
    a, b = genomes[pairs[:, 0]], genomes[pairs[:, 1]]
    in_a, in_b = encoding.in_use(a), encoding.in_use(b)
    crossed = rng.random((len(pairs), 1)) < CROSSOVER_RATE
    take_b = crossed & np.where(in_a == in_b, rng.random(a.shape) < 0.5, in_b)
    children = np.where(take_b, b, a)
    known = np.where(take_b, in_b, in_a)
    drawn = rng.integers(0, encoding.num_values, size=a.shape)
    children = encoding.canonical(np.where(known, children, drawn))
    return mutate(encoding, children, rng)


def mutate(encoding: Encoding, genomes: Genomes, rng: np.random.Generator) -> Genomes:
    """Genomes [n, V] with each decision in use redrawn with probability 1 / their number, and at least one always."""
    open_ = encoding.in_use(genomes) & (encoding.num_values > 1)
    chance = 1 / np.maximum(1, open_.sum(axis=1, keepdims=True))
    change = open_ & (rng.random(genomes.shape) < chance)
    certain = np.argmax(np.where(open_, rng.random(genomes.shape), -1.0), axis=1)
    change[np.arange(len(genomes)), certain] = True
    drawn = rng.integers(0, encoding.num_values, size=genomes.shape)
    absent = ~encoding.in_use(genomes)
    return encoding.canonical(np.where(change | absent, drawn, genomes))
