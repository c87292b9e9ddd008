"""Which sub-networks one training step uses: the largest, the smallest and a few random ones.

Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", arXiv:2003.11142.

Size is (parameters, FLOPs, state bytes), compared in this order. The largest is found by raising one decision at a
time, from all numbers at their maximum, until no single change makes it larger; among equals the value that the space
names first stays. So each slot has the candidate with most parameters. The smallest is found downwards, with `none`
left out as mixer and as ffn: a network of empty blocks would train nothing but stem and head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from searchspace.cost import cost
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding, Genome, Genomes, Variable
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

ROUND = 60  # divisible by 1 to 6, the usual numbers of values of a decision
MAX_DRAWS = 10_000


class Sandwich:
    """The architectures of every step, from (seed, step) alone.

    Random ones are drawn in rounds of ROUND networks, in each of which every decision takes all its values equally
    often, in an order of its own: no operator of a slot, `none` included, falls behind by chance.
    """

    def __init__(self, space: SpaceSpec, num_random: int, seed: int) -> None:
        self.encoding = Encoding(space)
        self.num_random = num_random
        self.seed = seed
        self.largest = largest(self.encoding)
        self.smallest = smallest(self.encoding)
        self._round: Callable[[int], Genomes] = lru_cache(2)(self._draw_round)

    def at(self, step: int) -> list[ArchSpec]:
        """The largest, the smallest, then `num_random` random valid ones."""
        first = step * self.num_random
        return [self.largest, self.smallest, *(self._random(first + i) for i in range(self.num_random))]

    def _random(self, number: int) -> ArchSpec:
        genome = tuple(self._round(number // ROUND)[number % ROUND].tolist())
        arch = self.encoding.decode(genome)
        if why_invalid(arch) is None:
            return arch
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 1, number]))
        return next(valid_architectures(self.encoding, rng, Workload()))[1]

    def _draw_round(self, number: int) -> Genomes:
        """[ROUND, V]"""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 0, number]))
        num_values = self.encoding.num_values[:, None]
        start = rng.integers(0, num_values)  # which values are drawn once more where ROUND is no multiple
        genes = (np.arange(ROUND) + start) % num_values
        return self.encoding.canonical(rng.permuted(genes, axis=1).T)


def largest(encoding: Encoding) -> ArchSpec:
    """The most expensive valid architecture that changing one decision at a time finds."""
    return _climb(encoding, direction=1)


def smallest(encoding: Encoding) -> ArchSpec:
    """The cheapest valid one in which every block that exists has a mixer and an ffn, where the space has any."""
    return _climb(encoding, direction=-1)


def _climb(encoding: Encoding, direction: int) -> ArchSpec:
    allowed = [_allowed(v, direction) for v in encoding.variables]
    genome = _start(encoding, allowed, direction)
    best = _size(encoding.decode(genome), direction)
    improved = True
    while improved:
        improved = False
        for place, values in enumerate(allowed):
            for value in values:
                changed = (*genome[:place], value, *genome[place + 1 :])
                arch = encoding.decode(changed)
                if why_invalid(arch) is None and (size := _size(arch, direction)) > best:
                    genome, best, improved = changed, size, True
    return encoding.decode(genome)


def _allowed(variable: Variable, direction: int) -> list[int]:
    """Indices of the values that may be taken."""
    real = [i for i, value in enumerate(variable.values) if value != NONE.op]
    is_sublayer = variable.name.endswith((".mixer", ".ffn"))
    return real if direction < 0 and is_sublayer and real else list(range(len(variable.values)))


def _start(encoding: Encoding, allowed: list[list[int]], direction: int) -> Genome:
    """Numbers at their extremes, operators as first named; a random valid genome where that one is not valid."""
    genome = tuple(
        max(values, key=[direction * _number(v) for v in variable.values].__getitem__)
        for variable, values in zip(encoding.variables, allowed, strict=True)
    )
    if why_invalid(encoding.decode(genome)) is None:
        return genome
    rng = np.random.default_rng(0)
    for _ in range(MAX_DRAWS):
        genome = tuple(int(rng.choice(values)) for values in allowed)
        if why_invalid(encoding.decode(genome)) is None:
            return genome
    raise ValueError(f"space {encoding.space.name}: none of {MAX_DRAWS} random architectures is valid")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _size(arch: ArchSpec, direction: int) -> tuple[int, int, int]:
    found = cost(arch, Workload())
    return direction * found.parameters, direction * found.flops, direction * found.state_bytes
