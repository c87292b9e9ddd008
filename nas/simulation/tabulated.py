"""Evaluates architectures by a table, or by its surrogates for architectures that it does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nas.errors import UsageError
from nas.simulation.surrogate import Surrogate
from nas.simulation.table import MIN_ROWS, Table
from searchspace.spec.genome import Genome, Genomes
from studies.pareto import Points, hypervolume


@dataclass(frozen=True)
class Goal:
    """A quantity of the table; `sign` is 1 to minimize it and -1 to maximize it."""

    quantity: str
    sign: int = 1


def parse_goals(text: str, table: Table) -> tuple[Goal, ...]:
    """Parse a list such as `perplexity,accuracy:max`; quantities are minimized by default.

    Raises UsageError for an unknown or repeated quantity.
    """
    goals = []
    for part in text.split(","):
        name, _, direction = part.strip().partition(":")
        if name not in table.quantities or direction not in ("", "min", "max"):
            raise UsageError(
                f"--objectives {part.strip()}: give quantities of {table.name}, followed by :max to maximize; "
                f"it has {', '.join(table.quantities)}"
            )
        goals.append(Goal(name, -1 if direction == "max" else 1))
    if len({g.quantity for g in goals}) < len(goals):
        raise UsageError(f"--objectives {text}: name each quantity only once")
    return tuple(goals)


def complete(table: Table, goals: Sequence[Goal]) -> tuple[Table, int]:
    """The table without architectures that lack a quantity of the goals, and the number of these.

    Raises UsageError if fewer than MIN_ROWS are left.
    """
    kept = np.isfinite([table.quantities[g.quantity] for g in goals]).all(axis=0)
    if kept.sum() < MIN_ROWS:
        raise UsageError(
            f"--objectives {','.join(g.quantity for g in goals)}: {int(kept.sum())} architectures of {table.name} "
            f"have all of them, at least {MIN_ROWS} are needed"
        )
    quantities = {name: values[kept] for name, values in table.quantities.items()}
    return replace(table, genomes=table.genomes[kept], quantities=quantities), int((~kept).sum())


class Tabulated:
    """Losses of any architecture of the table's space in the quantities of `goals`.

    Hypervolume is that of losses scaled so that their smallest and largest values in the table are 0 and 1, with the
    reference point at 1 in every objective. Raises UsageError for a quantity that is constant in the table.
    """

    def __init__(self, table: Table, goals: Sequence[Goal]) -> None:
        self.table, self.goals = table, tuple(goals)
        self.encoding = table.encoding
        values = [table.quantities[g.quantity] for g in goals]
        for goal, column in zip(goals, values, strict=True):
            if column.min() == column.max():
                raise UsageError(
                    f"--objectives {goal.quantity}: it is {column[0]:g} in all of {table.name}; give one that varies"
                )
        self.surrogates = [Surrogate(self.encoding, table.genomes, v) for v in values]
        signs = np.array([g.sign for g in goals], dtype=np.float64)
        self._signs = signs
        known = np.column_stack(values) * signs
        self.low, self.high = known.min(axis=0), known.max(axis=0)
        self._known = {tuple(g): row for g, row in zip(table.genomes.tolist(), known, strict=True)}

    def losses(self, genomes: Genomes) -> Points:
        """The losses [n, M] of canonical genomes [n, V]."""
        found = np.column_stack([s.predict(genomes) for s in self.surrogates]) * self._signs
        for i, genome in enumerate(genomes.tolist()):
            if (known := self._known.get(tuple(genome))) is not None:
                found[i] = known
        return found

    def loss(self, genome: Genome) -> Points:
        """The losses [M] of a canonical genome."""
        return np.asarray(self.losses(np.array([genome]))[0])

    def hypervolume(self, losses: Points) -> float:
        """The hypervolume of losses [n, M], scaled by the table's ranges."""
        return hypervolume((losses - self.low) / (self.high - self.low), np.ones(len(self.goals)))

    @cached_property
    def table_hypervolume(self) -> float:
        """The hypervolume of all rows of the table."""
        return self.hypervolume(np.array(list(self._known.values())))
