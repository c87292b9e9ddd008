"""Random valid architectures of a space, the rate of valid genomes, and draws of every size within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.sizes import Measure, Sizes
from searchspace.spec.space import Constraint
from searchspace.spec.workload import Workload
from searchspace.validity import violations, why_invalid

BATCH = 256
MAX_REFUSED = 20_000  # consecutive refused draws after which drawing stops
RARE = 16  # where fewer than one draw in 16 keeps the bounds, every other batch is drawn towards them
STEPS = 8  # networks in even steps of size with which a search begins
TRIES = 8
GRID, PATHS = 9, 4  # places on a path at which sizes are measured, and number of paths

Draw = Callable[[np.random.Generator, float], Genome]


@dataclass
class Tally:
    """The number of drawn genomes, and the reasons of the refused ones."""

    drawn: int = 0
    valid: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def reasons(self) -> str:
        """The three commonest reasons, with counts."""
        return "refused for: " + "; ".join(f"{reason} ({n}x)" for reason, n in self.refused.most_common(3))


def valid_architectures(
    encoding: Encoding,
    rng: np.random.Generator,
    workload: Workload,
    tally: Tally | None = None,
    max_draws: float = inf,
) -> Iterator[tuple[Genome, ArchSpec]]:
    """Yield (canonical genome, architecture) of valid draws within the space's constraints.

    Each decision is uniform over its values before invalid draws are left out; where the constraints leave too few,
    every other batch is spread evenly over the sizes within them. Repeats are possible. Ends after `max_draws` genomes,
    valid or not. Raises ValueError with the commonest reasons after MAX_REFUSED consecutive refusals.
    """
    tally = tally if tally is not None else Tally()
    constraints = encoding.space.constraints
    towards = by_size(encoding, workload, constraints) if constraints else None
    was_uniform, refused = False, 0
    while True:
        is_rare = was_uniform and tally.valid * RARE < tally.drawn
        batch = _spread(towards, rng) if towards and is_rare else _uniform(encoding, rng)
        was_uniform = not (towards and is_rare)
        for genome in batch:
            if tally.drawn >= max_draws:
                return
            arch = encoding.decode(genome)
            tally.drawn += 1
            reason = why_invalid(arch)
            if reason is None and constraints:
                missed = violations(arch, constraints, workload)
                reason = f"bound on {', '.join(missed)}" if missed else None
            if reason is None:
                tally.valid += 1
                refused = 0
                yield genome, arch
            else:
                tally.refused[reason.split(": ", 1)[-1]] += 1
                refused += 1
                if refused == MAX_REFUSED:
                    raise ValueError(
                        f"space {encoding.space.name}: {tally.valid} valid architectures in {tally.drawn} draws, "
                        f"the last {refused} refused; {tally.reasons()}"
                    )


def _uniform(encoding: Encoding, rng: np.random.Generator) -> Iterator[Genome]:
    for row in encoding.random(BATCH, rng).tolist():
        yield tuple(row)


def _spread(draw: Draw, rng: np.random.Generator) -> Iterator[Genome]:
    for _ in range(BATCH):
        yield draw(rng, rng.random())


def by_size(encoding: Encoding, workload: Workload, constraints: Sequence[Constraint] = ()) -> Draw:
    """Return a draw of a random canonical genome by size, from 0 (smallest network) to 1 (largest), valid or not.

    Under constraints the size is that share of the way between the bounds on one of their quantities, chosen at random.
    """
    sizes = _sizes(encoding)
    measures = {c: _measure(encoding, workload, c.quantity) for c in constraints}
    steps = lru_cache(1)(lambda: _even(sizes, _measure(encoding, workload, "parameters")))

    def draw(rng: np.random.Generator, share: float) -> Genome:
        path = sizes.path(rng)
        if not constraints:
            return path.at(float(np.interp(share, steps(), np.linspace(0, 1, GRID))))
        c = constraints[int(rng.integers(len(constraints)))]
        return path.within(measures[c], *_range(c), share)

    return draw


def even_steps(encoding: Encoding, workload: Workload, is_valid: Callable[[ArchSpec], bool]) -> list[Genome]:
    """Return the largest network, the smallest, and valid ones in even steps of size between them, where they exist.

    Size is the quantity of the space's first constraint, within its bounds; else the number of parameters. Operators
    are those that the space names first.
    """
    bounds = next(iter(encoding.space.constraints), Constraint("parameters"))
    sizes, measure = _sizes(encoding), _measure(encoding, workload, bounds.quantity)
    rng = np.random.default_rng(0)

    def valid(genome: Genome) -> bool:
        return is_valid(encoding.decode(genome))

    ends = [g for g in sizes.smallest() if valid(g)]
    found = [g for g in (sizes.largest, min(ends, key=measure, default=None)) if g is not None and valid(g)]
    for i in range(1, STEPS - 1):
        for _ in range(TRIES):
            genome = sizes.path(rng, first_names=True).within(measure, *_range(bounds), i / (STEPS - 1))
            if valid(genome):
                found.append(genome)
                break
    return list(dict.fromkeys(found))


def _sizes(encoding: Encoding) -> Sizes:
    return Sizes(encoding, lambda genome: why_invalid(encoding.decode(genome)) is None)


def _even(sizes: Sizes, measure: Measure) -> NDArray[np.float64]:
    """Sizes at GRID places of a path, as shares of the way from smallest to largest, averaged over PATHS paths [GRID].

    Nondecreasing. Uses the operators that the space names first, since others may be slow to build.
    """
    rng, places = np.random.default_rng(0), np.linspace(0, 1, GRID)
    paths = [sizes.path(rng, first_names=True) for _ in range(PATHS)]
    mean = np.mean([[measure(path.at(float(p))) for p in places] for path in paths], axis=0)
    grown = np.maximum.accumulate(mean - mean[0])
    return np.asarray(grown / grown[-1] if grown[-1] > 0 else places)


def _measure(encoding: Encoding, workload: Workload, quantity: str) -> Measure:
    @lru_cache(1 << 12)
    def measure(genome: Genome) -> float:
        return float(getattr(cost(encoding.decode(genome), workload), quantity))

    return measure


def _range(bounds: Constraint) -> tuple[float, float]:
    return -inf if bounds.lower is None else bounds.lower, inf if bounds.upper is None else bounds.upper


def sample(
    encoding: Encoding, count: int, seed: int, workload: Workload, max_draws: int = 200_000
) -> list[ArchSpec]:
    """Return `count` distinct valid architectures. Raises ValueError with the commonest reasons where too few exist."""
    tally = Tally()
    found: dict[str, ArchSpec] = {}
    rng = np.random.default_rng(seed)
    for _, arch in valid_architectures(encoding, rng, workload, tally, max_draws):
        found.setdefault(arch.id, arch)
        if len(found) == count:
            return list(found.values())
    raise ValueError(
        f"space {encoding.space.name}: {len(found)} distinct valid architectures in {tally.drawn} draws, "
        f"{count} wanted{'; ' + tally.reasons() if tally.refused else ''}"
    )
