"""What a search is worth: the networks that it found, compared with those available without a search.

All networks were judged alike. For each network made by hand, the fastest found network of at least its quality and the
best found network of at most its cost are reported; where both were timed in one run, the ratio has an interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from searchspace.spec.handmade import HANDMADE, ORIGINALS, PLAIN
from searchspace.spec.measurement import Measurement
from studies.latencies import NOT_TIMED, Latencies, as_measured
from studies.pareto import front, knee, losses
from studies.records import Objective, Study, Trial

NUM_COMPARED = 3  # of each kind of network made by hand
OF_QUALITY = ("trained", "inherited", "user", "proxy")
FLOOR = 0.9  # of an imported model's quality, unless another share is requested


@dataclass(frozen=True)
class Side:
    """A network's quality and cost, and p10 and p90 of the cost where it was measured."""

    number: int
    quality: float
    cost: float
    low: float
    high: float
    further: dict[str, float] = field(default_factory=dict)  # other costs that the study minimizes, by name


@dataclass(frozen=True)
class Compared:
    """A network made by hand, the cheapest found network at least as good, and the best found one at most as costly.

    `kind` is a kind of searchspace.spec.handmade.
    """

    plain: Side
    cheaper: Side | None
    better: Side | None
    kind: str = PLAIN

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """Factor by which the found network is cheaper at equal quality, with its interval."""
        if self.cheaper is None:
            return None
        p, f = self.plain, self.cheaper
        return p.cost / f.cost, p.low / f.high, p.high / f.low


@dataclass(frozen=True)
class Worth:
    """`rows` compare the best networks made by hand, best first within each kind; may be empty.

    `is_measured` says whether costs are measured or predicted. `found` are found networks of the front that keep the
    study's floor of quality; `why_alone` says why there is nothing to compare them with.
    """

    quality: Objective
    cost: Objective
    rows: list[Compared]
    is_measured: bool
    found: list[Side] = field(default_factory=list)
    why_alone: str = ""

    @property
    def unbeaten(self) -> list[Side]:
        """Found networks to which no network made by hand is at least equal in both quality and cost."""
        loss, rows = self.quality.loss, [row.plain for row in self.rows]
        return [
            f
            for f in self.found
            if not any(loss(p.quality) <= loss(f.quality) and p.cost <= f.cost for p in rows)
        ]

    def sentence(self) -> str:
        """Return the sentence on the worth of the search that ends a run; "" where it is unknown."""
        if not self.rows:
            return self.why_alone
        if any(row.kind in ORIGINALS for row in self.rows):
            return self._beside_the_original()
        row = self.rows[0]
        best = f"the best plain network, trial {self._told(row.plain)}"
        if row.ratio is None or row.cheaper is None:
            return f"no network that was found is as good as {best}: take that one, or search longer"
        ratio, low, high = row.ratio
        interval = f" ({low:.2f} to {high:.2f})" if low != high else ""
        found = f"trial {row.cheaper.number} has {self._at(row.cheaper)}"
        if ratio <= 1:
            return f"nothing that was found is both as good as and cheaper than {best}; {found}"
        said = f"{found}: as good as {best}, with {ratio:.2f} times{interval} less {self.cost.name}"
        return said + self._further(row.plain, row.cheaper)

    def _further(self, plain: Side, found: Side) -> str:
        """What the found network has of the other costs, as part of a sentence."""
        parts = []
        for name, value in found.further.items():
            other = plain.further[name]
            if value == other:
                parts.append(f", with as much {name}")
            elif value < other:
                parts.append(f", and {_ratio(other, value)} times less {name}")
            else:
                parts.append(f", but {_ratio(value, other)} times as much {name}")
        return "".join(parts)

    def _beside_the_original(self) -> str:
        firsts = {row.kind: row.plain for row in reversed(self.rows)}
        known = "; ".join(f"{k}, trial {self._told(firsts[k])}" for k in HANDMADE if k in firsts)
        said = f"without a search there are: {known}. "
        if not self.found:
            return (
                said + "Nothing that was found is as good as was asked: take one of these, or search longer"
            )
        if not self.unbeaten:
            which = "the network" if len(self.found) == 1 else f"{len(self.found)} networks"
            return f"{said}Of {which} found, none is better or cheaper: take one of these, or search longer"
        best = min(self.unbeaten, key=lambda f: self.quality.loss(f.quality))
        return (
            f"{said}Of {len(self.found)} {'timed ' if self.is_measured else ''}networks that were found, "
            f"{len(self.unbeaten)} are beaten by none of these, the best of them trial {self._told(best)}"
        )

    def _at(self, side: Side) -> str:
        return f"{_value(side.quality, self.quality)} at {_value(side.cost, self.cost)}"

    def _told(self, side: Side) -> str:
        return f"{side.number} ({self._at(side)} {'measured' if self.is_measured else self.cost.source})"

    def to_json(self) -> dict[str, Any]:
        return {
            "quality": self.quality.name,
            "cost": self.cost.name,
            "measured": self.is_measured,
            "rows": [
                {
                    "kind": r.kind,
                    "plain": vars(r.plain),
                    "cheaper": vars(r.cheaper) if r.cheaper else None,
                    "better": vars(r.better) if r.better else None,
                    "ratio": r.ratio,
                }
                for r in self.rows
            ],
            "found": [vars(f) for f in self.found],
            "unbeaten": [f.number for f in self.unbeaten],
        }


def marks(trials: Iterable[Trial]) -> dict[str, str]:
    """Return the kind of each network made by hand (searchspace.spec.handmade) by architecture id, at any rung."""
    return {t.arch_id: t.origin for t in trials if t.origin in HANDMADE}


def best_plain(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """Return up to NUM_COMPARED networks made by hand of each kind, undominated within it, best first."""
    known = marks(trials)
    quality = quality_of(study.objectives) or study.objectives[0]
    found: list[Trial] = []
    for kind in HANDMADE:
        best = front([t for t in trials if known.get(t.arch_id) == kind], study.objectives)
        found += sorted(best, key=lambda t: quality.loss(t.values[quality.name]))[:NUM_COMPARED]
    return found


def quality_of(objectives: Sequence[Objective]) -> Objective | None:
    return next((o for o in objectives if o.source in OF_QUALITY), None)


@dataclass(frozen=True)
class Floor:
    """The least quality of the knee in an imported model's study: `share` of the model's own quality, at value `limit`.

    Quality is accuracy, cosine similarity (1 - loss of embeddings), or exp(-loss), the mean probability of the target.
    """

    objective: Objective
    share: float
    limit: float

    def keeps(self, trial: Trial) -> bool:
        loss = self.objective.loss
        return loss(trial.values[self.objective.name]) <= loss(self.limit)

    def sentence(self) -> str:
        side = "at most" if self.objective.direction == "minimize" else "at least"
        return (
            f"the knee keeps {self.share:.0%} of the original's quality: {self.objective.name} "
            f"{side} {_value(self.limit, self.objective)} (--floor)"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"objective": self.objective.name}


def floor_of(study: Study, trials: Iterable[Trial]) -> Floor | None:
    """Return the floor; None for a study of a new space, one without a floor, or one whose model was not judged."""
    quality, share = quality_of(study.objectives), floor_share(study)
    if not share or quality is None:
        return None
    known = [t.values[quality.name] for t in trials if t.origin in ORIGINALS and quality.name in t.values]
    if not known:
        return None
    return Floor(quality, share, share_of(share, min(known, key=quality.loss), quality))


def floor_share(study: Study) -> float:
    """Return the least share of an imported model's quality; 0 for a new space, no quality, or no floor."""
    recipe, quality = study.settings.recipe, quality_of(study.objectives)
    if not recipe.get("model") or quality is None or quality.source == "proxy":
        return 0.0
    return FLOOR if recipe.get("floor") is None else float(recipe["floor"])


def share_of(share: float, whole: float, quality: Objective) -> float:
    """Return the objective's value at `share` of the quality of the value `whole`."""
    if quality.direction == "maximize":
        return share * whole
    return whole - math.log(share) if quality.unit == "nats" else 1 - share * (1 - whole)


def compromise(
    best: Sequence[Trial],
    handmade: Collection[str],
    objectives: Sequence[Objective],
    floor: Floor | None = None,
    latencies: Latencies = NOT_TIMED,
) -> Trial:
    """Return the member of a front that is handed over by default: the knee of the found networks that keep the floor.

    A network made by hand (ids in `handmade`) needs no search: it is chosen only where no found network keeps the
    floor. Latencies measured for the study (ms) replace predicted ones, and a member that another one then dominates is
    dropped.
    """
    timed = front(as_measured(best, objectives, latencies), objectives)
    found = [t for t in timed if t.arch_id not in handmade]
    kept = [[t for t in some if floor is None or floor.keeps(t)] for some in (found, timed)]
    members = kept[0] or kept[1] or found or timed
    number = members[knee(losses(members, objectives))].number
    return next(t for t in best if t.number == number)


def handed_over(
    study: Study, trials: Collection[Trial], best: Sequence[Trial], latencies: Latencies = NOT_TIMED
) -> Trial | None:
    """Return the compromise of a study's front `best`, given all of its `trials`; None where the front is empty."""
    if not best:
        return None
    return compromise(best, marks(trials), study.objectives, floor_of(study, trials), latencies)


def worth(study: Study, trials: Sequence[Trial], measured: Mapping[str, Measurement]) -> Worth | None:
    """Compare the study's networks; `measured` are latencies by architecture id. None without a quality or a cost."""
    goals = study.objectives
    quality = quality_of(goals)
    costs = [o for o in goals if o.source in ("predicted", "measured", "cost") and o.direction == "minimize"]
    if quality is None or not costs:
        return None
    cost = costs[0]
    plain = best_plain(study, trials)
    ids = marks(trials)
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
        further = {o.name: trial.values[o.name] for o in costs[1:]}
        return Side(trial.number, trial.values[quality.name], value, low, high, further)

    loss_of = quality.loss
    sides = [side(t) for t in found]
    rows = []
    for trial in plain:
        p = side(trial)
        as_good = [f for f in sides if loss_of(f.quality) <= loss_of(p.quality)]
        as_cheap = [f for f in sides if f.cost <= p.cost and loss_of(f.quality) < loss_of(p.quality)]
        rows.append(
            Compared(
                p,
                min(as_good, key=lambda f: f.cost, default=None),
                min(as_cheap, key=lambda f: loss_of(f.quality), default=None),
                ids[trial.arch_id],
            )
        )
    floor = floor_of(study, trials)
    kept = [s for s, t in zip(sides, found, strict=True) if floor is None or floor.keeps(t)]
    return Worth(quality, cost, rows, is_measured, kept, "" if rows else _why_alone(study, trials, ids))


def _why_alone(study: Study, trials: Iterable[Trial], ids: Mapping[str, str]) -> str:
    """Why no network made by hand can be compared with; "" where the study proposes none."""
    judged = [t for t in trials if t.arch_id in ids and t.is_finished]
    in_full = [t for t in judged if not t.fidelity]
    if not judged:
        return ""
    if not in_full:
        return "no plain network was judged in full, so nothing is said of what the search is worth: search longer"
    bound = study.settings.baseline
    kept = f"knows more than {bound.words}" if bound else "keeps the bounds"
    none = f"no plain network that was judged in full ({len(in_full)} were) {kept}"
    return f"{none}: what was found has none to be compared with"


def _ratio(more: float, less: float) -> str:
    return f"{more / less:.3g}" if less else "infinitely many"


def _value(value: float, objective: Objective) -> str:
    return f"{value:.4g} {objective.unit}".strip()
