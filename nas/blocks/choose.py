"""Networks from a table of block scores: the best within budgets, and how well the table predicts losses.

Costs are additive like the scores: the cost of a candidate is that of the parent with it minus the parent's. Latency is
a sum over operators measured on the device; if the profile has a correction that is not additive, the budget of the sum
is adjusted until the corrected latency meets the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.blocks.library import Entry, Library, replaced
from nas.blocks.solver import Floats, ladder, solve
from nas.errors import UsageError
from nas.evaluation.quantities import QUANTITIES
from predictors.agreement import kendall, spearman
from predictors.lookup import OperatorTable, Sums
from searchspace.cost import cost
from searchspace.spec.arch import ArchSpec
from searchspace.spec.workload import Workload

MAX_ROUNDS = 8
Quality = Callable[[ArchSpec], float]


@dataclass(frozen=True)
class Costs:
    """Costs of a network in the units of QUANTITIES; `table` is None if no device was profiled."""

    workload: Workload
    table: OperatorTable | None

    def of(self, arch: ArchSpec, names: Sequence[str]) -> Floats:
        """The costs [M] with these names, latency as the study predicts it. Raises UsageError without a profile."""
        return np.array([self._latency(arch) if n == "latency" else self._counted(arch, n) for n in names])

    def additive(self, arch: ArchSpec, names: Sequence[str]) -> Floats:
        """The costs [M] with these names, latency as the sum over operators. Raises UsageError without a profile."""
        return np.array([self._sum_ms(arch) if n == "latency" else self._counted(arch, n) for n in names])

    def _counted(self, arch: ArchSpec, name: str) -> float:
        quantity = QUANTITIES[name]
        return float(getattr(cost(arch, self.workload), quantity.cost)) / quantity.scale

    def _latency(self, arch: ArchSpec) -> float:
        return self._table.latency(arch, self.workload).value_ms

    def _sum_ms(self, arch: ArchSpec) -> float:
        table = self._table
        return float(table.correction.plain_ms(Sums.of(table.sums(arch)[None]))[0])

    @property
    def _table(self) -> OperatorTable:
        if self.table is None:
            raise UsageError(
                "--max latency: the study has no profile of a device; bound memory or flops instead"
            )
        return self.table


def check_bounds(bounds: Mapping[str, float]) -> None:
    """Raises UsageError for a bound on a quantity that is neither a cost nor latency, or that no value can meet."""
    known = [name for name, q in QUANTITIES.items() if q.cost or name == "latency"]
    for name in bounds:
        if name not in known:
            raise UsageError(f"--max {name}: it can't be bounded; bound one of {', '.join(known)}")
        QUANTITIES[name].check(None, bounds[name])


def best_within(library: Library, costs: Costs, bounds: Mapping[str, float]) -> list[Entry]:
    """The candidates with the smallest predicted loss within the bounds; optimal if costs are additive.

    Raises UsageError naming the smallest possible values if no network meets the bounds.
    """
    names, limits = list(bounds), np.array(list(bounds.values()))
    groups = list(library.groups().values())
    base = costs.additive(library.parent, names)
    values = [np.array([e.delta for e in group]) for group in groups]
    added = [np.array([_added(library, costs, e, names, base) for e in group]) for group in groups]
    budgets, kept = limits * _ratio(base, costs.of(library.parent, names)), None
    for _ in range(MAX_ROUNDS if "latency" in bounds else 1):
        picked = solve(values, added, budgets - base)
        if picked is None:
            break
        chosen = [group[i] for group, i in zip(groups, picked, strict=True)]
        arch = library.network(chosen)
        exact = costs.of(arch, names)
        if (exact <= limits).all() and (kept is None or library.delta(chosen) < library.delta(kept)):
            kept = chosen
        moved = limits * _ratio(costs.additive(arch, names), exact)
        if np.allclose(moved, budgets, rtol=1e-6):
            break
        budgets = moved
    if kept is None:
        raise UsageError(f"no network keeps these bounds; {_smallest(library, costs, names, added)}")
    return kept


def _ratio(summed: Floats, exact: Floats) -> Floats:
    """The ratio [M] of additive costs [M] to exact ones [M]; 1 where the exact cost is 0."""
    return np.where(exact > 0, summed / np.where(exact > 0, exact, 1.0), 1.0)


def mix_n_match(library: Library, costs: Costs, bounds: Mapping[str, float]) -> list[Entry]:
    """The candidates of the largest step of the ladder of ffn sizes within the bounds; the rest stays the parent's.

    Raises UsageError if the ffn has only one size, or if even the smallest sizes exceed the bounds.
    """
    names, limits = list(bounds), np.array(list(bounds.values()))
    layers = [_sizes(library, group) for (_, slot), group in library.groups().items() if slot == "ffn"]
    num_sizes = min(map(len, layers), default=0)
    if num_sizes < 2:
        raise UsageError("--method mix-n-match: the ffn of the parent has one size only")
    for step in reversed(ladder(len(layers), num_sizes)):
        chosen = [sizes[i] for sizes, i in zip(layers, step, strict=True)]
        if (costs.of(library.network(chosen), names) <= limits).all():
            return chosen
    smallest = costs.of(library.network([sizes[0] for sizes in layers]), names)
    stated = ", ".join(f"{n} {v:.4g}" for n, v in zip(names, smallest, strict=True))
    raise UsageError(f"--method mix-n-match: even the smallest ffn everywhere has {stated}")


def _sizes(library: Library, group: Sequence[Entry]) -> list[Entry]:
    """The parent's ffn of a layer in all its sizes, smallest first."""
    own = library.parent.blocks[group[0].layer].ffn
    same = [
        e for e in group if _without_size(e.spec.items) == _without_size(own.items) and e.spec.op == own.op
    ]
    return sorted(same, key=lambda e: float(e.spec.get("d_ff", 0)))


def _without_size(items: Sequence[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in items if name != "d_ff"]


def _added(library: Library, costs: Costs, entry: Entry, names: Sequence[str], base: Floats) -> Floats:
    added: Floats = (
        costs.additive(replaced(library.parent, entry.layer, entry.slot, entry.spec), names) - base
    )
    return added


def _smallest(library: Library, costs: Costs, names: Sequence[str], added: Sequence[Floats]) -> str:
    """A sentence on the smallest value of each cost that some network reaches."""
    groups, found = list(library.groups().values()), []
    for m, name in enumerate(names):
        chosen = [group[int(c[:, m].argmin())] for group, c in zip(groups, added, strict=True)]
        found.append(f"{name} {costs.of(library.network(chosen), [name])[0]:.4g}")
    return f"the smallest possible values, each on its own, are {', '.join(found)}"


@dataclass(frozen=True)
class Trust:
    """Predicted and measured losses of random networks in nats, and their rank correlations.

    `by_parameters` is the Kendall tau of ranking by parameter count, without the table.
    """

    predicted: list[float]
    measured: list[float]
    kendall: float
    spearman: float
    by_parameters: float

    @property
    def mean_error(self) -> float:
        """Mean absolute error in nats."""
        return (
            float(np.abs(np.subtract(self.predicted, self.measured)).mean()) if self.predicted else math.nan
        )


def check(library: Library, costs: Costs, loss_of: Quality, count: int, seed: int = 0) -> Trust:
    """Compare predicted with measured losses of `count` random networks, which change about half of the groups."""
    rng, groups = np.random.default_rng(seed), list(library.groups().values())
    base, predicted, measured, sizes = loss_of(library.parent), [], [], []
    for _ in range(count):
        moved = [group for group in groups if rng.random() < 0.5]
        chosen = [group[int(rng.integers(len(group)))] for group in moved]
        arch = library.network(chosen)
        predicted.append(base + library.delta(chosen))
        measured.append(loss_of(arch))
        sizes.append(float(costs.of(arch, ["parameters"])[0]))
    by_size = kendall([-s for s in sizes], measured)
    return Trust(predicted, measured, kendall(predicted, measured), spearman(predicted, measured), by_size)
