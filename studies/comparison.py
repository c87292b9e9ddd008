"""Two studies side by side: how fast each progressed, and which networks of one are dominated by the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.pareto import Points, front, hypervolume_over_time, losses
from studies.records import Objective, Study, Trial, TrialState

MARGIN = 0.1  # of the fronts' range, so that members at their ends contribute to the hypervolume too
FIRST = 10  # trials whose front bounds the reference point too, so that hypervolumes grow from the beginning


@dataclass(frozen=True)
class Side:
    """One study in the comparison; `volumes` are shares of the joint hypervolume after the trial counts of `at`."""

    name: str
    num_trials: int
    num_complete: int
    front: list[Trial]
    best: dict[str, float]
    volumes: list[float | None]
    dominated: dict[int, int]  # front member -> member of the other study that dominates it

    def to_json(self) -> dict[str, Any]:
        return {
            "study": self.name,
            "trials": self.num_trials,
            "complete": self.num_complete,
            "front_size": len(self.front),
            "best": self.best,
            "hypervolume": self.volumes,
            "dominated": [{"trial": mine, "by": theirs} for mine, theirs in self.dominated.items()],
        }


@dataclass(frozen=True)
class Comparison:
    """`at` are the numbers of trials at which hypervolumes are stated; `notes` name what is not comparable."""

    objectives: tuple[Objective, ...]
    reference: dict[str, float]
    at: list[int]
    sides: tuple[Side, Side]
    notes: list[str]


def compare(studies: Sequence[Study], trials: Sequence[Sequence[Trial]]) -> Comparison:
    """Compare over common objectives. Raises ValueError where there are none, or a study has no complete trial."""
    objectives = _common(studies[0], studies[1])
    fronts = [front(ts, objectives) for ts in trials]
    for study, members in zip(studies, fronts, strict=True):
        if not members:
            raise ValueError(
                f"study {study.name!r} has no complete trial yet, so there is nothing to compare"
            )
    corner = reference_point(trials, objectives)
    at = checkpoints(max(len(ts) for ts in trials))
    curves = [hypervolume_over_time(ts, objectives, corner) for ts in trials]
    whole = float(hypervolume_over_time(_joined(fronts), objectives, corner)[-1])
    sides = [
        Side(
            name=studies[i].name,
            num_trials=len(trials[i]),
            num_complete=sum(t.state == TrialState.COMPLETE for t in trials[i]),
            front=fronts[i],
            best={o.name: _best(fronts[i], o) for o in objectives},
            volumes=[float(curves[i][n - 1] / whole) if n <= len(curves[i]) else None for n in at],
            dominated=_dominated(fronts[i], fronts[1 - i], objectives),
        )
        for i in (0, 1)
    ]
    reference = {o.name: o.loss(float(x)) for o, x in zip(objectives, corner, strict=True)}
    return Comparison(
        objectives, reference, at, (sides[0], sides[1]), _notes(studies[0], studies[1], objectives)
    )


def reference_point(studies: Sequence[Sequence[Trial]], objectives: Sequence[Objective]) -> Points:
    """Return the reference point [M]: the worst value of each objective on any front, early or late, plus a margin."""
    fronts = [front(part, objectives) for trials in studies for part in (trials[:FIRST], trials)]
    points = losses(_joined(fronts), objectives)
    best, worst = points.min(axis=0), points.max(axis=0)
    span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
    corner: Points = worst + MARGIN * span
    return corner


def checkpoints(count: int) -> list[int]:
    """Return 10, 20, 50, 100, ... below `count`, and `count` itself."""
    steps = [factor * 10**power for power in range(1, 9) for factor in (1, 2, 5)]
    return [n for n in steps if n < count] + [count]


def _common(a: Study, b: Study) -> tuple[Objective, ...]:
    directions = {o.name: o.direction for o in b.objectives}
    common = tuple(o for o in a.objectives if directions.get(o.name) == o.direction)
    if not common:
        mine, theirs = (", ".join(o.name for o in s.objectives) for s in (a, b))
        raise ValueError(f"studies {a.name!r} ({mine}) and {b.name!r} ({theirs}) have no objective in common")
    return common


def _notes(a: Study, b: Study, objectives: Sequence[Objective]) -> list[str]:
    other = {o.name: o for o in b.objectives}
    notes = []
    for mine, theirs in ((o, other[o.name]) for o in objectives):
        for what in ("unit", "source", "device", "workload"):
            if getattr(mine, what) != getattr(theirs, what):
                notes.append(f"{mine.name} is not the same quantity in both: the {what} differs")
    if a.supernet != b.supernet and any(o.source == "inherited" for o in objectives):
        notes.append("quality was inherited from different supernets")
    return notes


def _best(members: Sequence[Trial], objective: Objective) -> float:
    return min((t.values[objective.name] for t in members), key=objective.loss)


def _dominated(
    mine: Sequence[Trial], theirs: Sequence[Trial], objectives: Sequence[Objective]
) -> dict[int, int]:
    points, others = losses(mine, objectives), losses(theirs, objectives)
    found = {}
    for trial, point in zip(mine, points, strict=True):
        beats = (others <= point).all(axis=1) & (others < point).any(axis=1)
        if beats.any():
            found[trial.number] = theirs[int(beats.argmax())].number
    return found


def _joined(fronts: Sequence[Sequence[Trial]]) -> list[Trial]:
    return [trial for members in fronts for trial in members]
