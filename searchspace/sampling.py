"""Random valid architectures of a space, and how often a random genome is valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

import numpy as np

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, Genome
from searchspace.spec.workload import Workload
from searchspace.validity import violations, why_invalid

BATCH = 256
MAX_REFUSED = 20_000  # draws in a row; fewer than one in so many is not found by drawing


@dataclass
class Tally:
    """How many genomes were drawn and why those refused were refused."""

    drawn: int = 0
    valid: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def reasons(self) -> str:
        """The three commonest, with how often."""
        return "refused for: " + "; ".join(f"{reason} ({n}x)" for reason, n in self.refused.most_common(3))


def valid_architectures(
    encoding: Encoding,
    rng: np.random.Generator,
    workload: Workload,
    tally: Tally | None = None,
    max_draws: float = inf,
) -> Iterator[tuple[Genome, ArchSpec]]:
    """Draws of (canonical genome, architecture) that are valid and within the space's constraints.

    Each decision is uniform over its values before the refused are left out. Repeats are possible. Ends after
    `max_draws` genomes, valid or not. Raises ValueError with the commonest reasons where MAX_REFUSED in a row are
    refused.
    """
    tally = tally if tally is not None else Tally()
    constraints = encoding.space.constraints
    refused = 0
    while True:
        for row in encoding.random(BATCH, rng).tolist():
            if tally.drawn >= max_draws:
                return
            genome = tuple(row)
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


def sample(
    encoding: Encoding, count: int, seed: int, workload: Workload, max_draws: int = 200_000
) -> list[ArchSpec]:
    """`count` distinct valid architectures. Raises ValueError with the commonest reasons where too few are found."""
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
