"""`nas simulate`: the hypervolume that searchers reach on a table, as a share of a reference front's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.home import home
from nas.simulation.reference import EVALUATIONS, POPULATION, reference_hypervolume
from nas.simulation.replay import make, replay, volumes
from nas.simulation.table import load_table
from nas.simulation.tabulated import Tabulated, complete, parse_goals
from studies.pareto import Points

COUNTS = (50, 100, 250, 500)
QUANTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}


@dataclass(frozen=True)
class _Search:
    """Result of one search: hypervolume `shares` at each count of trials, and the final size of the `front`."""

    seed: int
    shares: list[float]
    front: int
    proposal_ms: float


def simulate(options: argparse.Namespace) -> int:
    table = load_table(options.table)
    goals = parse_goals(options.objectives, table)
    table, left_out = complete(table, goals)
    problem = Tabulated(table, goals)
    searchers = [s.strip() for s in options.searcher.split(",")]
    for name in searchers:
        make(name, problem, 0)  # an unknown name is refused before anything is computed
    if not options.json:
        if left_out:
            print(f"left out: {left_out:,} architectures without a value of every objective", flush=True)
        _show_table(problem)
    reference = reference_hypervolume(problem, home() / "simulation")
    counts = sorted({*(c for c in COUNTS if c < options.evaluations), options.evaluations})
    found = {name: list(_searches(name, problem, reference, counts, options)) for name in searchers}
    if options.json:
        print(json.dumps(_report(problem, reference, counts, found, options) | {"left_out": left_out}))
    else:
        _show(problem, reference, counts, found)
    return 0


def _searches(
    name: str, problem: Tabulated, reference: float, counts: list[int], options: argparse.Namespace
) -> Iterator[_Search]:
    from rich.console import Console
    from rich.progress import track

    with_progress = track(
        range(options.seeds), name, console=Console(stderr=True, quiet=options.json), transient=True
    )
    for seed in with_progress:
        found = replay(make(name, problem, seed), problem, options.evaluations, options.lag)
        shares = [v / reference for v in volumes(problem, found.losses, counts)]
        yield _Search(seed, shares, _front_size(found.losses), 1e3 * float(found.seconds.mean()))


def _front_size(losses: Points) -> int:
    from studies.pareto import non_dominated

    return len(np.unique(losses[non_dominated(losses)], axis=0))


def _report(
    problem: Tabulated,
    reference: float,
    counts: list[int],
    found: dict[str, list[_Search]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "table": problem.table.name,
        "rows": len(problem.table.genomes),
        "objectives": [{"name": g.quantity, "maximize": g.sign < 0} for g in problem.goals],
        "normalization": {"loss_at_0": problem.low.tolist(), "loss_at_1_and_corner": problem.high.tolist()},
        "reference": {
            "hypervolume": reference,
            "nsga2_population": POPULATION,
            "nsga2_evaluations": EVALUATIONS,
            "table_share": problem.table_hypervolume / reference,
        },
        "surrogates": {
            g.quantity: s.held_out.to_json() for g, s in zip(problem.goals, problem.surrogates, strict=True)
        },
        "lag": options.lag,
        "searchers": {name: _summary(counts, searches) for name, searches in found.items()},
    }


def _summary(counts: list[int], searches: list[_Search]) -> dict[str, Any]:
    shares = np.array([s.shares for s in searches])
    return {
        "evaluations": counts,
        "hypervolume_share": {name: np.quantile(shares, q, axis=0).tolist() for name, q in QUANTILES.items()},
        "by_seed": [{"seed": s.seed, "hypervolume_share": s.shares, "front": s.front} for s in searches],
        "proposal_ms": float(np.median([s.proposal_ms for s in searches])),
    }


def _show_table(problem: Tabulated) -> None:
    print(
        f"{problem.table.name}: {len(problem.table.genomes):,} architectures of {problem.encoding.size():,}"
    )
    for goal, surrogate in zip(problem.goals, problem.surrogates, strict=True):
        errors = surrogate.held_out
        within = ", ".join(f"{w}: {100 * e:.2f} %" for w, e in errors.relative_rmse_within.items())
        print(
            f"{goal.quantity}: values missing in the table are predicted by {errors.form} ridge regression; error on "
            f"held-out rows {100 * errors.relative_rmse:.2f} %; by width {within}",
            flush=True,
        )


def _show(problem: Tabulated, reference: float, counts: list[int], found: dict[str, list[_Search]]) -> None:
    from nas.cli.display import table

    print(
        f"hypervolume as a share of {reference:.4f}, which NSGA-II reaches in {EVALUATIONS:,} evaluations "
        f"(objectives scaled by their range in the table, reference point at its worst values; all rows of the table "
        f"together: {problem.table_hypervolume / reference:.3f}); median and quartiles over "
        f"{len(next(iter(found.values())))} seeds"
    )
    header = ["searcher", *(f"at {c}" for c in counts), "ms a proposal"]
    lines = []
    for name, searches in found.items():
        low, median, high = np.quantile([s.shares for s in searches], list(QUANTILES.values()), axis=0)
        cells = [f"{m:.3f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, median, high, strict=True)]
        cells.append(f"{np.median([s.proposal_ms for s in searches]):.1f}")
        lines.append((name, *cells))
    table(header, lines)
    sys.stdout.flush()
