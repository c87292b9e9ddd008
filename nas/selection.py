"""Selects a network of a study: by its number, by bounds, or the knee of the front. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nas.errors import UsageError
from nas.presentation.result import Result
from nas.request.recipe import Bounds
from studies.latencies import as_measured
from studies.pareto import losses
from studies.records import JUDGED, Objective, Trial


@dataclass(frozen=True)
class Selection:
    """A trial by its number, else the best of the front within `bounds`, else the knee of the front.

    The best is that with the best value of the first objective without a bound. Measured latencies replace predictions.
    """

    trial: int | None = None
    bounds: Bounds = field(default_factory=dict)

    def of(self, result: Result) -> Trial:
        """The selected trial of `result`. Raises UsageError if none fits, naming the ranges that the front has."""
        if self.trial is not None:
            return self._numbered(result)
        knee = result.knee
        if knee is None:
            raise UsageError(f"study {result.study.name!r} has no complete trial to choose from")
        if not self.bounds:
            return knee
        known = as_measured(result.front, result.study.objectives, result.latencies)
        objectives = {o.name: o for o in result.study.objectives}
        for name in self.bounds:
            if name not in objectives:
                raise UsageError(f"a bound on {name}: the study's objectives are {', '.join(objectives)}")
        bounded = [replace(objectives[n], lower=b[0], upper=b[1]) for n, b in self.bounds.items()]
        fitting = [t for t in known if not any(o.violation(t.values[o.name]) for o in bounded)]
        if not fitting:
            raise UsageError(_nothing_fits(known, bounded))
        free = [i for i, name in enumerate(objectives) if name not in self.bounds]
        best = losses(fitting, result.study.objectives)[:, free[0] if free else 0].argmin()
        return next(t for t in result.front if t.number == fitting[int(best)].number)

    def _numbered(self, result: Result) -> Trial:
        found = [t for t in result.trials if t.number == self.trial]
        if not found:
            raise UsageError(
                f"--trial {self.trial}: study {result.study.name!r} has trials 0 to {len(result.trials) - 1}"
            )
        if found[0].state not in JUDGED:
            raise UsageError(
                f"--trial {self.trial} is {found[0].state}: {found[0].error or 'it has no values yet'}"
            )
        return found[0]


def _nothing_fits(front: Sequence[Trial], bounded: Sequence[Objective]) -> str:
    """The message if no network fits, with the front's range of each bounded objective."""
    spans = []
    for o in bounded:
        values = [t.values[o.name] for t in front]
        spans.append(f"{o.name} from {min(values):.4g} to {max(values):.4g}")
    return f"no network of the front keeps the bounds: it has {' and '.join(spans)}"
