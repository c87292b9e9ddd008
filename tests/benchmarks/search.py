"""Quality of each searcher's front over evaluations of a tabulated space, compared with other projects' searchers.

Hypervolume is measured below the table's worst values, scaled by its range, relative to that of NSGA-II after 40,000
evaluations (population 200). Finished runs are lines of studies/results/search/runs.jsonl; an interrupted benchmark
continues and repeats no run that has a line.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from nas.searchers.registry import SEARCHERS
from nas.simulation.reference import reference_hypervolume
from nas.simulation.replay import make, replay, volumes
from nas.simulation.table import load_table
from nas.simulation.tabulated import Tabulated, parse_goals
from tests.benchmarks.peers import PEERS
from tests.benchmarks.rows import Row

TABLE = Path("tests/data/hwgpt_s.csv.gz")
OBJECTIVES = "perplexity,lat_ms_median_h100"
FOLDER = Path("studies/results/search")
COUNTS = (50, 80, 100, 125, 250, 500)
SEEDS = 20
PROCESSES = 2
NUMBA_OR_SMALL = ("age2", "gp")  # one needs numba, the other a small space


@dataclass(frozen=True)
class Run:
    """One search: hypervolume at COUNTS relative to the reference, and the cost of a proposal."""

    table: str
    objectives: str
    searcher: str
    lag: int
    seed: int
    shares: tuple[float, ...]
    proposal_ms: float


def run() -> list[Row]:
    finished = load()
    missing = [job for job in jobs() if job not in finished]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(search, *job) for job in missing]):
            result = future.result()
            with (FOLDER / "runs.jsonl").open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            finished[result.searcher, result.lag, result.seed] = result
            print(
                f"{len(finished)}: {result.searcher}, lag {result.lag}, seed {result.seed}: {result.shares[-1]:.4f}",
                flush=True,
            )
    return list(rows(finished))


def jobs() -> list[tuple[str, int, int]]:
    """Return (searcher, lag, seed) seed by seed, so that an interrupted benchmark has equally many seeds of each.

    This project's default searcher and the peers come first.
    """
    others = [s for s in SEARCHERS if s != "guided" and s not in NUMBA_OR_SMALL]
    groups = [("guided", 0), ("guided", 16), *((p, 0) for p in PEERS)], [(name, 0) for name in others]
    return [(name, lag, seed) for group in groups for seed in range(SEEDS) for name, lag in group]


def load() -> dict[tuple[str, int, int], Run]:
    file = FOLDER / "runs.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    return {
        (r.searcher, r.lag, r.seed): r for r in runs if (r.table, r.objectives) == (TABLE.name, OBJECTIVES)
    }


@cache
def problem() -> Tabulated:
    table = load_table(TABLE)
    return Tabulated(table, parse_goals(OBJECTIVES, table))


def search(name: str, lag: int, seed: int) -> Run:
    tabulated, start = problem(), time.process_time()
    if name in PEERS:
        losses = PEERS[name](tabulated, seed, max(COUNTS))
        seconds = (time.process_time() - start) / max(COUNTS)
    else:
        replayed = replay(make(name, tabulated, seed), tabulated, max(COUNTS), lag)
        losses, seconds = replayed.losses, float(replayed.seconds.mean())
    reference = reference_hypervolume(tabulated, FOLDER / "reference")
    shares = tuple(round(v / reference, 5) for v in volumes(tabulated, losses, COUNTS))
    return Run(TABLE.name, OBJECTIVES, name, lag, seed, shares, round(1e3 * seconds, 2))


def rows(runs: dict[tuple[str, int, int], Run]) -> Iterator[Row]:
    """Yield median and quartiles over seeds, the best searcher at the largest count last."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for (name, lag, _), result in sorted(runs.items()):
        groups.setdefault((name, lag), []).append(result)
    medians = {key: np.median([r.shares[-1] for r in group]) for key, group in groups.items()}
    for key in sorted(groups, key=lambda k: float(medians[k])):
        shares = np.array([r.shares for r in groups[key]])
        label = f"{key[0]}, lag {key[1]}" if key[1] else key[0]
        for count, column in zip(COUNTS, shares.T, strict=True):
            low, median, high = np.quantile(column, (0.25, 0.5, 0.75))
            note = f"{len(column)} seeds, low and high are quartiles"
            yield Row(f"{label} at {count}", float(median), low, high, "of the reference", baseline=note)
        cost = [r.proposal_ms for r in groups[key]]
        yield Row(
            f"{label}, proposal", float(np.median(cost)), min(cost), max(cost), "ms of processor a trial"
        )
