"""The sandwich rule: each training step uses the largest, the smallest and a few random sub-networks.

Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", arXiv:2003.11142.

Operators, unlike numbers, have no largest value. The largest network therefore has the operators that the space names
first (for mixer and ffn the first that is not `none`), its standard block, with the numbers of the highest cost. The
smallest has the values of the lowest cost, but keeps a mixer and an ffn in every block, if the space has any, because a
network of empty blocks would train only stem and head. Cost is (parameters, FLOPs, state bytes), compared in this
order; ties keep the value named first.

Every second random network has the numbers of the largest and random operators: otherwise all other operators would be
trained only at random widths and lag behind those of the largest network, which are trained in every step.
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
    """The architectures of every step, determined by (seed, step).

    Random ones are drawn in rounds of ROUND networks, in which every decision takes all its values equally often, in an
    independent random order, so that no operator of a slot (or `none`) is drawn less often by chance.
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
        """The random network of index `number`; even ones have the numbers of the largest network."""
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
        """The first valid of `wanted(drawn)` and `wanted` of MAX_DRAWS random genomes, else a random valid network."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 2 + kind, number]))
        others = valid_architectures(self.encoding, rng, Workload())
        for genome in chain([drawn], (g for g, _ in islice(others, MAX_DRAWS))):
            arch = self.encoding.decode(wanted(genome))
            if why_invalid(arch) is None:
                return arch
        return next(others)[1]

    def _draw_round(self, kind: int, number: int) -> Genomes:
        """Genomes [ROUND, V] of a round, for V decisions."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, kind, number]))
        num_values = self.encoding.num_values[:, None]
        start = rng.integers(
            0, num_values
        )  # the values drawn once more if ROUND is no multiple of their number
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
    """The genome of extreme numbers and first operators if valid, else a random valid one.

    Raises ValueError if MAX_DRAWS random genomes are all invalid.
    """
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
