"""What the fronts of several methods are worth against that of plain networks: trained losses, measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.pareto import Points, hypervolume, non_dominated

PLAIN = "plain"
LESS_STATE = "times less state at plain's best loss"  # only where state_bytes is an objective
BEYOND = 1.01  # the hypervolume's reference point is this multiple of the members' worst values


@dataclass(frozen=True)
class Figures:
    """`values` maps a figure's name to one number per seed; nan where a method has nothing to compare."""

    minutes: float
    method: str
    values: dict[str, list[float]]


def figures(seeds: Sequence[Sequence[dict[str, Any]]]) -> list[Figures]:
    """Compute figures from rows {method, minutes, members: [{loss, ms: (median, p10, p90)}]}, a list for each seed.

    Members have `state_bytes` where that is an objective.
    A method counts for the seeds on which it was run; the plain networks are run on all of them.
    """
    found = []
    for minutes in sorted({row["minutes"] for row in seeds[0]}):
        at = [{r["method"]: r["members"] for r in rows if r["minutes"] == minutes} for rows in seeds]
        everything = [p for by in at for members in by.values() for p in _points(members)]
        if not everything:  # too early for any method
            continue
        reference = np.max(everything, axis=0) * BEYOND
        for method in dict.fromkeys(method for by in at for method in by):
            ran = [by for by in at if method in by]
            volumes = [hypervolume(_points(by[method]), reference) if by[method] else 0.0 for by in ran]
            values = {"hypervolume (nats ms)": volumes}
            has_state = any("state_bytes" in m for by in at for members in by.values() for m in members)
            for title, compare in COMPARISONS.items():
                if title == LESS_STATE and not has_state:
                    continue
                values[title] = [compare(by[method], by[PLAIN]) for by in ran]
            found.append(Figures(minutes, method, values))
    return found


def _worthwhile(members: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The members not dominated in trained loss and measured time, lowest loss first."""
    kept = [m for m, keep in zip(members, non_dominated(_points(members)), strict=True) if keep]
    return sorted(kept, key=lambda m: m["loss"])


def _faster_at_best(members: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> float:
    return _faster(members, _worthwhile(plain)[0]) if plain else float("nan")


def _faster_at_three(members: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> float:
    """Geometric mean of `_faster` over the three lowest losses of plain's front; nan where one is not reached."""
    ratios = [_faster(members, p) for p in _worthwhile(plain)[:3]] if plain else [float("nan")]
    return float(np.exp(np.mean(np.log(ratios))))


def _faster(members: Sequence[dict[str, Any]], than: dict[str, Any]) -> float:
    """How many times faster the fastest member of at least equal quality is; nan without one."""
    as_good = [m["ms"][0] for m in members if m["loss"] <= than["loss"]]
    return float(than["ms"][0] / min(as_good)) if as_good else float("nan")


def _better_at_three(members: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> float:
    """Mean over three networks of `plain` of how much lower the loss of the best member that is no slower is."""
    found = []
    for p in _worthwhile(plain)[:3] if plain else []:
        quick = [m["loss"] for m in members if m["ms"][0] <= p["ms"][0]]
        found.append(p["loss"] - min(quick) if quick else float("nan"))
    return float(np.mean(found)) if found else float("nan")


def _smaller_at_best(members: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> float:
    """How many times less state the one with least has that is as good; nan where none is."""
    if not plain:
        return float("nan")
    best = _worthwhile(plain)[0]
    as_good = [m["state_bytes"] for m in members if m["loss"] <= best["loss"]]
    return float(best["state_bytes"] / min(as_good)) if as_good else float("nan")


COMPARISONS = {
    "times faster at plain's best loss": _faster_at_best,
    "at its three best": _faster_at_three,
    "nats below it in their times": _better_at_three,
    LESS_STATE: _smaller_at_best,
}


def _points(members: Sequence[dict[str, Any]]) -> Points:
    return np.array([(m["loss"], m["ms"][0]) for m in members], dtype=np.float64).reshape(-1, 2)
