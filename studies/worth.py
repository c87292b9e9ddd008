"""What a search is worth: the networks it found beside the plain ones that its user would have built by hand.

Both were judged alike. At the loss of a plain network the fastest found one that is as good is looked for, and in its
time the best found one; where both were timed in one run, the ratio has an interval from their p10 and p90.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchspace.spec.measurement import Measurement
from studies.pareto import front, knee, losses
from studies.records import Objective, Study, Trial

PLAIN = "plain"  # the origin of a trial of the plain family
NUM_COMPARED = 3
OF_QUALITY = ("trained", "inherited", "user", "proxy")


@dataclass(frozen=True)
class Side:
    """A network's place: its quality, and its cost with p10 and p90 where it was measured."""

    number: int
    quality: float
    cost: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A plain network, the cheapest found one at least as good, and the best found one at most as dear."""

    plain: Side
    cheaper: Side | None
    better: Side | None

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """How many times cheaper at equal quality, with its interval."""
        if self.cheaper is None:
            return None
        p, f = self.plain, self.cheaper
        return p.cost / f.cost, p.low / f.high, p.high / f.low


@dataclass(frozen=True)
class Worth:
    """`rows`: the plain family's best networks, the best first. Empty where the study has no plain network or no front.

    `is_measured` says whether costs are measured or as the search believed them.
    """

    quality: Objective
    cost: Objective
    rows: list[Compared]
    is_measured: bool

    def sentence(self) -> str:
        """What the end of a run says of the best plain network; "" where there is none."""
        if not self.rows:
            return ""
        q, c, row = self.quality, self.cost, self.rows[0]
        best = f"the best plain network, trial {row.plain.number} ({_value(row.plain.quality, q)} at "
        best += f"{_value(row.plain.cost, c)} {'measured' if self.is_measured else c.source})"
        if row.ratio is None or row.cheaper is None:
            return f"no network that was found is as good as {best}: take that one, or search longer"
        ratio, low, high = row.ratio
        interval = f" ({low:.2f} to {high:.2f})" if low != high else ""
        found = f"trial {row.cheaper.number} has {_value(row.cheaper.quality, q)} at {_value(row.cheaper.cost, c)}"
        if ratio <= 1:
            return f"nothing that was found is both as good as and cheaper than {best}; {found}"
        return f"{found}: as good as {best}, with {ratio:.2f} times{interval} less {c.name}"

    def to_json(self) -> dict[str, Any]:
        return {
            "quality": self.quality.name,
            "cost": self.cost.name,
            "measured": self.is_measured,
            "rows": [
                {
                    "plain": vars(r.plain),
                    "cheaper": vars(r.cheaper) if r.cheaper else None,
                    "better": vars(r.better) if r.better else None,
                    "ratio": r.ratio,
                }
                for r in self.rows
            ],
        }


def plain_ids(trials: Iterable[Trial]) -> set[str]:
    """Content ids of the plain family: a promoted network stays plain."""
    return {t.arch_id for t in trials if t.origin == PLAIN}


def best_plain(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """Up to NUM_COMPARED of the plain networks that no other plain one beats, the best in quality first."""
    known = plain_ids(trials)
    best = front([t for t in trials if t.arch_id in known], study.objectives)
    quality = next((o for o in study.objectives if o.source in OF_QUALITY), study.objectives[0])
    return sorted(best, key=lambda t: quality.loss(t.values[quality.name]))[:NUM_COMPARED]


def compromise(best: Sequence[Trial], plain: Collection[str], objectives: Sequence[Objective]) -> Trial:
    """The member of a front that is handed over unasked: the knee of what was found.

    A plain network needs no search; it is the compromise only where nothing else is on the front. `plain` has the ids
    of the plain networks.
    """
    found = [t for t in best if t.arch_id not in plain] or list(best)
    return found[knee(losses(found, objectives))]


def worth(study: Study, trials: Sequence[Trial], measured: Mapping[str, Measurement]) -> Worth | None:
    """`measured`: latencies by architecture. None where the study has no quality beside a cost to compare."""
    goals = study.objectives
    quality = next((o for o in goals if o.source in OF_QUALITY), None)
    costs = [o for o in goals if o.source in ("predicted", "measured", "cost") and o.direction == "minimize"]
    if quality is None or not costs:
        return None
    cost = costs[0]
    plain = best_plain(study, trials)
    ids = plain_ids(trials)
    found = front([t for t in trials if t.arch_id not in ids], goals)
    is_measured = cost.name == "latency" and bool(plain) and all(t.arch_id in measured for t in plain)
    if is_measured:
        found = [t for t in found if t.arch_id in measured]

    def side(trial: Trial) -> Side:
        value = trial.values[cost.name]
        low = high = value
        if is_measured:
            m = measured[trial.arch_id]
            value, low, high = m.value, m.p10 or m.value, m.p90 or m.value
        return Side(trial.number, trial.values[quality.name], value, low, high)

    loss_of = quality.loss
    sides = [side(t) for t in found]
    rows = []
    for p in map(side, plain):
        as_good = [f for f in sides if loss_of(f.quality) <= loss_of(p.quality)]
        as_cheap = [f for f in sides if f.cost <= p.cost and loss_of(f.quality) < loss_of(p.quality)]
        rows.append(
            Compared(
                p,
                min(as_good, key=lambda f: f.cost, default=None),
                min(as_cheap, key=lambda f: loss_of(f.quality), default=None),
            )
        )
    return Worth(quality, cost, rows, is_measured)


def measured_where_most_were(found: Iterable[Measurement]) -> dict[str, Measurement]:
    """The newest by subject, of the device on which most subjects were measured: times of two devices don't compare."""
    devices: dict[str, dict[str, Measurement]] = {}
    for m in sorted(found, key=lambda m: m.measured_at):
        devices.setdefault(m.device, {})[m.subject] = m
    return max(devices.values(), key=len, default={})


def _value(value: float, objective: Objective) -> str:
    return f"{value:.4g} {objective.unit}".strip()
