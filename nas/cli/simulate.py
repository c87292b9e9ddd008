"""`nas simulate`: the hypervolume that searchers reach on a table, as shares of a reference front's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.home import home
from nas.simulation.cluster import Schedule, schedule
from nas.simulation.reference import EVALUATIONS, POPULATION, reference_hypervolume
from nas.simulation.replay import make, replay, volumes
from nas.simulation.table import load_table
from nas.simulation.tabulated import Tabulated, complete, parse_goals
from studies.pareto import Points

COUNTS = (50, 100, 250, 500)
QUANTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}


@dataclass(frozen=True)
class _Search:
    """`shares` of the reference at each count, `front` the size of the front at the end."""

    seed: int
    shares: list[float]
    front: int
    proposal_ms: float
    schedule: Schedule | None


def simulate(options: argparse.Namespace) -> int:
    if options.lag is None:
        options.lag = 2 * (options.workers or 0)
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
        searcher, timing = make(name, problem, seed), None
        if options.workers:
            timing, losses = schedule(
                searcher, problem, options.evaluations, options.workers, options.seconds, options.lag, seed
            )
            cost = timing.driver_ms_per_trial
        else:
            replayed = replay(searcher, problem, options.evaluations, options.lag)
            losses, cost = replayed.losses, 1e3 * float(replayed.seconds.mean())
        shares = [v / reference for v in volumes(problem, losses, counts)]
        yield _Search(seed, shares, _front_size(losses), cost, timing)


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
    summary: dict[str, Any] = {
        "evaluations": counts,
        "hypervolume_share": {name: np.quantile(shares, q, axis=0).tolist() for name, q in QUANTILES.items()},
        "by_seed": [{"seed": s.seed, "hypervolume_share": s.shares, "front": s.front} for s in searches],
        "proposal_ms": float(np.median([s.proposal_ms for s in searches])),
    }
    if schedules := [s.schedule for s in searches if s.schedule]:
        summary["workers"] = schedules[0].workers
        summary["busy_ratio"] = float(np.median([s.busy_ratio for s in schedules]))
        summary["makespan_s"] = float(np.median([s.makespan for s in schedules]))
    return summary


def _show_table(problem: Tabulated) -> None:
    print(
        f"{problem.table.name}: {len(problem.table.genomes):,} architectures of {problem.encoding.size():,}"
    )
    for goal, surrogate in zip(problem.goals, problem.surrogates, strict=True):
        errors = surrogate.held_out
        within = ", ".join(f"{w}: {100 * e:.2f} %" for w, e in errors.relative_rmse_within.items())
        print(
            f"{goal.quantity}: where the table has no row, {errors.form} ridge regression; error on rows held out "
            f"{100 * errors.relative_rmse:.2f} %; within a width {within}",
            flush=True,
        )


def _show(problem: Tabulated, reference: float, counts: list[int], found: dict[str, list[_Search]]) -> None:
    from nas.cli.display import table

    print(
        f"hypervolume below the table's worst values, scaled by its range, as a share of {reference:.4f}: what NSGA-II "
        f"has after {EVALUATIONS:,} evaluations; all rows of the table together have "
        f"{problem.table_hypervolume / reference:.3f}. Median over {len(next(iter(found.values())))} seeds, quartiles."
    )
    simulated = any(s.schedule for searches in found.values() for s in searches)
    header = ["searcher", *(f"at {c}" for c in counts), "ms a proposal", *(["busy"] if simulated else [])]
    lines = []
    for name, searches in found.items():
        low, median, high = np.quantile([s.shares for s in searches], list(QUANTILES.values()), axis=0)
        cells = [f"{m:.3f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, median, high, strict=True)]
        cells.append(f"{np.median([s.proposal_ms for s in searches]):.1f}")
        if schedules := [s.schedule for s in searches if s.schedule]:
            cells.append(f"{np.median([s.busy_ratio for s in schedules]):.1%}")
        lines.append((name, *cells))
    table(header, lines)
    sys.stdout.flush()
