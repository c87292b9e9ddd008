"""Choose the architectures to evaluate next: first spread over the space, then by expected hypervolume improvement.

Shapes: n known genomes, V genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from nas.searchers.base import Observation, as_genome
from nas.searchers.guided.evolution import Judge, evolve, survive
from nas.searchers.guided.features import Features, tied
from nas.searchers.guided.gaussian_process import kernels
from nas.searchers.guided.improvement import choose_batch
from nas.searchers.guided.model import INFEASIBLE_COST, Model
from searchspace.spec.genome import Encoding, Genome, Genomes
from studies.pareto import Points, non_dominated

POPULATION, GENERATIONS = 100, 20
MANY = 64  # batches of at least this size, which serve many workers, get half the generations so that these wait less
CROWD = 64  # with this many pending proposals choosing must be fast: candidates are all genomes that evolution judged,
PICKS = 16  # and a batch is chosen in about 16 steps of several members each
MARGIN = 0.1  # the reference point exceeds the worst result by this share of each objective's range
DESIGN_POOL = 512  # random genomes that a design is chosen from

Valid = Callable[[Genome], bool]


def design(
    features: Features, known: Genomes, count: int, is_valid: Valid, rng: np.random.Generator
) -> list[Genome]:
    """Up to `count` valid genomes, one per size class, each with the largest variance given the known and chosen ones.

    Size is the number of decisions in use. Without the classes only large networks would be chosen, since they differ
    in the most decisions, while small ones may be the best. known: canonical, [n, V].
    """
    encoding = features.encoding
    half = DESIGN_POOL // 2
    drawn = np.vstack([tied(encoding, half, rng), encoding.random(half, rng)])
    order = np.lexsort((rng.random(DESIGN_POOL), encoding.in_use(drawn).sum(axis=1)))
    pool = np.vstack([known, drawn[order]])
    described = features(pool)
    covariance = kernels(described, described).sum(axis=0)
    covariance[np.diag_indices(len(pool))] += 1e-3
    num_known = len(known)
    if num_known:
        factor = cholesky(covariance[:num_known, :num_known], lower=True)
        explained = solve_triangular(factor, covariance[:num_known, num_known:], lower=True)
        covariance = covariance[num_known:, num_known:] - explained.T @ explained
    chosen: list[Genome] = []
    taken = {as_genome(g) for g in known}
    open_ = np.ones(DESIGN_POOL, dtype=bool)
    sizes = np.arange(DESIGN_POOL) * max(1, count) // DESIGN_POOL
    for size in rng.permutation(count).tolist():
        while (among := open_ & (sizes == size)).any():
            i = int(np.argmax(np.where(among, np.diag(covariance), -np.inf)))
            open_[i] = False
            genome = as_genome(pool[num_known + i])
            if genome not in taken and is_valid(genome):
                _condition(covariance, i)
                chosen.append(genome)
                taken.add(genome)
                break
    return chosen


def _condition(covariance: Points, i: int) -> None:
    """Condition the covariance [n, n] on genome i, in place."""
    column = covariance[:, i].copy()
    covariance -= np.outer(column, column) / column[i]


def improve(
    model: Model,
    told: Sequence[Observation],
    pending: Genomes,
    count: int,
    is_valid: Valid,
    rng: np.random.Generator,
    exact: Mapping[int, Callable[[Genome], float]] = MappingProxyType({}),
    worst: float | NDArray[np.float64] = np.inf,
) -> list[Genome]:
    """Up to `count` genomes with the largest expected hypervolume improvement, from candidates that evolution over the
    predictions finds and the front's networks in other formats.

    If too few candidates are valid, evolution runs again with invalid genomes penalized. `exact` maps an objective's
    index to a function that computes its loss without prediction (nan if it can't). A network with a loss beyond
    `worst` [M] improves nothing. pending: [n, V].
    """
    encoding = model.features.encoding
    ranked = [t for t in told if t.is_ranked and np.isfinite(t.losses).all()]
    feasible = [t for t in ranked if t.violation == 0]
    best = feasible or ranked
    losses = np.array([t.losses for t in best])
    front = np.array([t.genome for t in best])[non_dominated(losses)]
    reference = np.max([t.losses for t in ranked], axis=0) + MARGIN * np.maximum(model.spans, 1e-12)
    reference = np.minimum(reference, worst)
    known = losses if feasible else losses[:0]
    if len(pending):
        known = np.vstack([known, model.means(model.features(pending))])
    taken = {t.genome for t in told} | {as_genome(g) for g in pending}
    valid = cache(is_valid)
    chosen: list[Genome] = []
    crowded = len(pending) >= CROWD

    def buildable(genomes: Genomes) -> Points:
        refused = np.array([not valid(as_genome(g)) for g in genomes])
        return model.judge(genomes) + INFEASIBLE_COST * refused[:, None] * model.spans

    for judge in (model.judge, buildable):
        if len(chosen) == count:
            break
        size = max(POPULATION, count if crowded else 2 * count)
        first = np.vstack([front, tied(encoding, size, rng), encoding.random(size // 4, rng)])
        generations = GENERATIONS if count < MANY else GENERATIONS // 2
        if crowded:
            pool = _explored(encoding, judge, first, size, generations, rng, taken)
        else:
            pool, _ = evolve(encoding, judge, first, size, generations, rng)
        pool = np.vstack([pool, in_each_format(encoding, front)])
        candidates = list(dict.fromkeys(g for g in map(as_genome, pool) if g not in taken))
        if not candidates:
            continue
        described = model.features(np.array(candidates))
        means, stds = model.means_and_stds(described)
        for j, compute in exact.items():
            values = np.array([compute(g) for g in candidates])
            known_exactly = np.isfinite(values)
            means[known_exactly, j], stds[known_exactly, j] = values[known_exactly], 0.0
        probability = model.probability(described)
        missing = count - len(chosen)
        at_once = -(-missing // PICKS) if crowded else 1
        is_buildable = partial(_at, valid, candidates)
        indices = choose_batch(means, stds, probability, known, reference, missing, is_buildable, at_once)
        chosen += [candidates[i] for i in indices]
        taken.update(chosen)
        known = np.vstack([known, means[indices]])
    return chosen


def in_each_format(encoding: Encoding, genomes: Genomes) -> Genomes:
    """The genomes with one number format in all format decisions, for each format; they need no further training.

    genomes: canonical, [n, V]. Returns [n * number of formats, V], empty where the space has no choice of formats.
    """
    variables = enumerate(encoding.variables)
    offers = {i: len(v.values) for i, v in variables if v.is_format and len(v.values) > 1}
    found = [genomes[:0]]
    for value in range(max(offers.values(), default=0)):
        new = genomes.copy()
        for i, count in offers.items():
            new[:, i] = min(value, count - 1)
        found.append(encoding.canonical(new))
    return np.vstack(found)


def _explored(
    encoding: Encoding,
    judge: Judge,
    first: Genomes,
    size: int,
    generations: int,
    rng: np.random.Generator,
    taken: set[Genome],
) -> Genomes:
    """The best 2 * `size` of all genomes that an evolution judges, without those in `taken`."""
    judged: list[tuple[Genomes, Points]] = []

    def remembered(genomes: Genomes) -> Points:
        judged.append((genomes, judge(genomes)))
        return judged[-1][1]

    evolve(encoding, remembered, first, size, generations, rng)
    genomes, points = (np.vstack(parts) for parts in zip(*judged, strict=True))
    new = np.array([as_genome(g) not in taken for g in genomes])
    return survive(genomes[new], points[new], 2 * size)[0]


def _at(is_valid: Valid, candidates: Sequence[Genome], index: int) -> bool:
    return is_valid(candidates[index])
