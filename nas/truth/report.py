"""The report on how well each cheap judgement ranks the networks of a table, compared with ranking by size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.setup.preparation import OnStep, Step
from nas.truth import scores as proxy_scores
from nas.truth.combination import CURVE, LABELS, HeldOut, held_out, inputs
from nas.truth.readers import Table, spread
from studies.agreement import DRAWS, Agreement, Estimate, Floats, agreement, noise_ceiling

MAX_COMBINED = 1000  # networks of a table that combinations are evaluated on


@dataclass(frozen=True, eq=False)
class Judgement:
    """`values` [n] of the table's networks; higher is better. `kind` is baseline, proxy, column, combination (fitted to
    labels) or curve (a combination that needs a partial training).

    `turned` marks a stored column of unknown direction whose sign was changed to get a positive tau. `missing` counts
    networks without a value by reason; `ms` is the mean time of computing a value.
    """

    name: str
    kind: str
    values: Floats
    agreement: Agreement | None
    turned: bool = False
    missing: Mapping[str, int] = field(default_factory=dict)
    ms: float | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """`ceiling` is the tau of a perfect judgement, overall and within strata; None if the noise of seeds is unknown."""

    table: Table
    judgements: list[Judgement]
    ceiling: tuple[Estimate, Estimate] | None
    labels: int
    notes: list[str]

    def best(self, kinds: Sequence[str], within: bool = False) -> Judgement | None:
        """The judgement of these kinds with the highest tau, overall or `within` strata; None if there is none."""
        ranked = [
            (tau(j, within), j) for j in self.judgements if j.kind in kinds and not math.isnan(tau(j, within))
        ]
        return max(ranked, key=lambda pair: pair[0])[1] if ranked else None

    def to_json(self) -> dict[str, Any]:
        best: dict[str, dict[str, str | None]] = {}
        for name, kinds in (
            ("baseline", ("baseline",)),
            ("proxy", ("proxy", "column")),
            ("combination", ("combination",)),
            ("curve", (CURVE,)),
        ):
            found = {where: self.best(kinds, where == "within") for where in ("overall", "within")}
            best[name] = {where: j.name if j else None for where, j in found.items()}
        ceiling = self.ceiling
        return {
            "form": self.table.form,
            "quality": self.table.quality_name,
            "networks": len(self.table.quality),
            "strata": dict(Counter(self.table.strata)),
            "seed_sd": self.table.seed_sd,
            "noise_ceiling": ceiling and {"overall": ceiling[0].to_json(), "within": ceiling[1].to_json()},
            "labels": self.labels,
            "best": best,
            "judgements": [_to_json(j) for j in self.judgements],
            "notes": self.notes,
        }


def tau(judgement: Judgement, within: bool = False) -> float:
    found = judgement.agreement
    return math.nan if found is None else (found.within if within else found.overall)["kendall"].value


def make_report(
    table: Table,
    *,
    proxies: Sequence[str] | None = None,
    draws: int = DRAWS,
    labels: int = LABELS,
    workers: int = 1,
    on_step: OnStep,
) -> Report:
    """The report on a table: its baselines, its columns, the named proxies (None: all) and combinations of these."""
    parameters = table.baselines.get("parameters")
    judged = [Judgement(name, "baseline", v, None) for name, v in table.baselines.items()]
    judged += [Judgement(name, "column", v, None) for name, v in table.columns.items()]
    if table.archs:
        wanted = proxy_scores.names() if proxies is None else list(proxies)
        judged += _proxies(table, wanted, workers, on_step)
    ranked = []
    for i, judgement in enumerate(judged):
        ranked.append(_ranked(judgement, table, parameters, draws))
        on_step(Step("resampling", i + 1, len(judged)))
    notes = list(table.notes)
    usable = [j for j in ranked if j.agreement is not None]
    if labels and len(usable) > 1 and len(table.quality) >= 30:
        if len(table.quality) > MAX_COMBINED:
            notes.append(f"combinations are judged on {MAX_COMBINED} of the networks, evenly spread")
        ranked += _combinations(table, usable, labels, draws, on_step)
    ceiling = None
    if table.seed_sd is not None:
        ceiling = noise_ceiling(table.quality, table.strata, table.seed_sd, draws=draws)
    return Report(table, ranked, ceiling, labels, notes)


def _proxies(table: Table, wanted: Sequence[str], workers: int, on_step: OnStep) -> list[Judgement]:
    found = proxy_scores.scores(
        table.archs,
        wanted,
        workers=workers,
        on_network=lambda done, total: on_step(Step("scoring", done, total)),
    )
    return [
        Judgement(
            name,
            "proxy",
            np.array([k.value for k in kept]),
            None,
            missing=Counter(k.reason for k in kept if k.reason),
            ms=float(np.mean([k.ms for k in kept])),
        )
        for name, kept in found.items()
    ]


def _ranked(judgement: Judgement, table: Table, parameters: Floats | None, draws: int) -> Judgement:
    """The judgement with its agreement, None if too few networks have a value; a stored column's sign may change."""
    values, turned = judgement.values, False
    missing = dict(judgement.missing)
    if judgement.kind == "column" and (empty := int((~np.isfinite(values)).sum())):
        missing["no value in the table"] = empty
    try:
        found = agreement(values, table.quality, table.strata, parameters, draws=draws)
        if judgement.kind == "column" and found.overall["kendall"].value < 0:
            values, turned = -values, True
            found = agreement(values, table.quality, table.strata, parameters, draws=draws)
    except ValueError as error:
        return _with(judgement, values, None, turned, missing | {str(error): len(values)})
    return _with(judgement, values, found, turned, missing)


def _with(
    judgement: Judgement,
    values: Floats,
    found: Agreement | None,
    turned: bool,
    missing: Mapping[str, int],
) -> Judgement:
    return Judgement(judgement.name, judgement.kind, values, found, turned, missing, judgement.ms)


def _combinations(
    table: Table, usable: Sequence[Judgement], labels: int, draws: int, on_step: OnStep
) -> list[Judgement]:
    """A judgement for each method and holding-out scheme; its agreement is the mean over the repeats."""
    rows = spread(len(table.quality), MAX_COMBINED)
    small = table.take(rows)
    predicted = held_out(
        small,
        inputs(small, {j.name: j.values[rows] for j in usable}, {j.name: j.kind != "column" for j in usable}),
        labels=labels,
        on_fold=lambda done, total: on_step(Step("combining", done, total)),
    )
    runs: dict[tuple[str, str], list[HeldOut]] = {}
    for run in predicted:
        runs.setdefault((run.method, run.scheme), []).append(run)
    found = []
    for (method, scheme), repeats in runs.items():
        each = [
            agreement(
                r.predictions, small.quality, small.strata, small.baselines.get("parameters"), draws=draws
            )
            for r in repeats
        ]
        name = f"{method} ({scheme} held out)"
        found.append(
            Judgement(
                name,
                CURVE if method == CURVE else "combination",
                repeats[0].predictions,
                _mean_agreement(each),
            )
        )
    return found


def _mean_agreement(each: Sequence[Agreement]) -> Agreement:
    def mean(estimates: Sequence[Estimate]) -> Estimate:
        return Estimate(
            *(float(np.mean([getattr(e, f) for e in estimates])) for f in ("value", "lower", "upper"))
        )

    def means(named: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
        return {name: mean([e[name] for e in named]) for name in named[0]}

    first = each[0]
    strata = {g: means([a.strata[g] for a in each]) for g in first.strata}
    gains = [a.gain for a in each if a.gain is not None]
    inside = [a.gain_within for a in each if a.gain_within is not None]
    return Agreement(
        first.count,
        means([a.overall for a in each]),
        means([a.within for a in each]),
        strata,
        mean(gains) if gains else None,
        mean(inside) if inside else None,
    )


def _to_json(judgement: Judgement) -> dict[str, Any]:
    found = judgement.agreement
    row: dict[str, Any] = {
        "name": judgement.name,
        "kind": judgement.kind,
        "turned": judgement.turned,
        "missing": dict(judgement.missing),
        "ms": judgement.ms,
    }
    if found is None:
        return row | {
            "count": 0,
            "overall": None,
            "within": None,
            "strata": {},
            "gain": None,
            "gain_within": None,
        }

    def named(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
        return {name: e.to_json() for name, e in estimates.items()}

    return row | {
        "count": found.count,
        "overall": named(found.overall),
        "within": named(found.within),
        "strata": {g: named(e) for g, e in found.strata.items()},
        "gain": found.gain and found.gain.to_json(),
        "gain_within": found.gain_within and found.gain_within.to_json(),
    }
