"""Which sub-networks one training step uses: the largest, the smallest and a few random ones.

Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", arXiv:2003.11142.

Numbers have a largest and a smallest, operators do not. The largest network has the operators that the space names
first (as mixer and ffn the first that is not `none`), its own idea of a standard block, and the numbers that make it
cost most. The smallest has whatever costs least, but in every block that exists a mixer and an ffn, where the space has
any: a network of empty blocks would train nothing but stem and head. Cost is (parameters, FLOPs, state bytes), compared
in this order; among equals the value named first stays.

Every second random network has the largest one's numbers and random operators: an operator that only ever met random
widths would lag behind the one that the largest network trains in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain, islice

import numpy as np

from searchspace.cost import cost
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding, Genome, Genomes, Variable
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid

ROUND = 60  # divisible by 1 to 6, the usual numbers of values of a decision
MAX_DRAWS = 1000


class Sandwich:
    """The architectures of every step, from (seed, step) alone.

    Random ones are drawn in rounds of ROUND networks, in each of which every decision takes all its values equally
    often, in an order of its own: no operator of a slot, `none` included, falls behind by chance.
    """

    def __init__(self, space: SpaceSpec, num_random: int, seed: int) -> None:
        self.encoding = Encoding(space)
        self.num_random = num_random
        self.seed = seed
        self._widest = _climb(self.encoding, direction=1)
        self.largest = self.encoding.decode(self._widest)
        self.smallest = self.encoding.decode(_climb(self.encoding, direction=-1))
        self._is_number = np.array([_is_number(v) for v in self.encoding.variables])
        self._round: Callable[[int, int], Genomes] = lru_cache(4)(self._draw_round)

    def at(self, step: int) -> list[ArchSpec]:
        """The largest, the smallest, then `num_random` random valid ones."""
        first = step * self.num_random
        return [self.largest, self.smallest, *(self._random(first + i) for i in range(self.num_random))]

    def _random(self, number: int) -> ArchSpec:
        """Even numbers are of full size."""
        number, kind = divmod(number, 2)
        drawn = self._drawn(kind, number)
        if kind == 0:
            return self._first_valid(0, number, lambda genome: self._merged(genome, self._widest), drawn)
        return self._first_valid(1, number, lambda genome: genome, drawn)

    def _merged(self, operators: Genome, numbers: Genome) -> Genome:
        return tuple(np.where(self._is_number, numbers, operators).tolist())

    def _drawn(self, kind: int, number: int) -> Genome:
        return tuple(self._round(kind, number // ROUND)[number % ROUND].tolist())

    def _first_valid(
        self, kind: int, number: int, wanted: Callable[[Genome], Genome], drawn: Genome
    ) -> ArchSpec:
        """What is wanted of `drawn`, else of one of MAX_DRAWS random genomes, else a random valid architecture."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 2 + kind, number]))
        others = valid_architectures(self.encoding, rng, Workload())
        for genome in chain([drawn], (g for g, _ in islice(others, MAX_DRAWS))):
            arch = self.encoding.decode(wanted(genome))
            if why_invalid(arch) is None:
                return arch
        return next(others)[1]

    def _draw_round(self, kind: int, number: int) -> Genomes:
        """[ROUND, V]"""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, kind, number]))
        num_values = self.encoding.num_values[:, None]
        start = rng.integers(0, num_values)  # which values are drawn once more where ROUND is no multiple
        genes: Genomes = rng.permuted((np.arange(ROUND) + start) % num_values, axis=1).T
        return genes


def _climb(encoding: Encoding, direction: int) -> Genome:
    """Change one decision at a time until no single change makes the network larger (1) or smaller (-1)."""
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
    return genome


def _allowed(variable: Variable, direction: int) -> list[int]:
    """Indices of the values that the largest (1) or smallest (-1) network may take."""
    every = list(range(len(variable.values)))
    if _is_number(variable):
        return every
    if variable.name.endswith((".mixer", ".ffn")):
        every = [i for i in every if variable.values[i] != NONE.op] or every
    return every[:1] if direction > 0 else every


def _is_number(variable: Variable) -> bool:
    return all(isinstance(value, int | float) for value in variable.values)


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
