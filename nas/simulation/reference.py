"""The reference front for searchers: that of NSGA-II with 40,000 evaluations, far more than any searcher gets.

It takes a few seconds, so its hypervolume is cached in a JSON file named by a hash of its inputs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from nas.files import put_text
from nas.searchers.guided.evolution import evolve
from nas.simulation.tabulated import Tabulated

POPULATION, EVALUATIONS = 200, 40_000
VERSION = 1  # of this computation and of the surrogate; increase it if either changes, to invalidate caches


def reference_hypervolume(problem: Tabulated, cache: Path | None = None) -> float:
    """The hypervolume of the reference front, read from the folder `cache` if possible; None disables caching."""
    goals = [[g.quantity, g.sign] for g in problem.goals]
    key = json.dumps([VERSION, problem.table.digest, goals])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json" if cache is not None else None
    if file is not None and file.exists():
        return float(json.loads(file.read_text())["hypervolume"])
    volume = compute(problem)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        put_text(
            file, json.dumps({"table": problem.table.name, "goals": goals, "hypervolume": volume}) + "\n"
        )
    return volume


def compute(problem: Tabulated) -> float:
    """The hypervolume of the last population of NSGA-II, which starts from a random one."""
    rng = np.random.default_rng(0)
    first = problem.encoding.random(POPULATION, rng)
    generations = EVALUATIONS // POPULATION - 1
    _, losses = evolve(problem.encoding, problem.losses, first, POPULATION, generations, rng)
    return problem.hypervolume(losses)
