"""What a search returns beside what its user would have done instead, in the same time on the same machine.

    search           the default: guided, networks trained as far as they earn it
    plain            uniform networks of full attention, trained alone one after the other
    random           random networks, trained alone one after the other
    nsga2 supernet   NSGA-II on the weights of a supernet

Each gets MINUTES of real time, the training of a supernet among them; the profile of the device is not counted. Every
member of every front is then trained alone by the whole recipe, and all are timed interleaved in one run. They are kept
in OUT as they come, and what is there is not run again. NAS_PROOF_SPACES, NAS_PROOF_SEEDS and NAS_PROOF_MINUTES say
what is run: small-lm, 0,1,2 and 20 where they are not set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nas.api import Hooks, drive
from nas.evaluation.trained import TrainedQuality
from nas.machine import num_cores
from nas.provenance import provenance
from nas.setup.plan import checked, named_space, plan
from nas.setup.recipe import Recipe, load_recipe
from nas.setup.runners import Choice
from nas.tasks.load import load_task
from predictors.network_bench import measure_networks
from predictors.profiling import random_models
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from studies.pareto import front, hypervolume
from studies.records import Study, Trial
from studies.store import Store
from tests.benchmarks.rows import Row

OUT = Path("studies/results/proof")
SPACES = os.environ.get("NAS_PROOF_SPACES", "small-lm").split(",")
SEEDS = [int(seed) for seed in os.environ.get("NAS_PROOF_SEEDS", "0,1,2").split(",")]
MINUTES = float(os.environ.get("NAS_PROOF_MINUTES", "20"))
SNAPSHOTS = (0.25, 1.0)  # of the time
ENDLESS = 100_000
METHODS: dict[str, dict[str, Any]] = {
    "search": {},
    "plain": {"searcher": "random", "quality": "train", "ladder": ()},
    "random": {"searcher": "random", "quality": "train", "ladder": ()},
    "nsga2 supernet": {"searcher": "nsga2", "quality": "supernet", "ladder": ()},
}
NUM_PLAIN = {"search": 16, "plain": 64}  # the others have none


def run() -> list[Row]:
    rows: list[Row] = []
    for space in SPACES:
        found = {seed: _compared(space, seed) for seed in SEEDS}
        rows += _rows(space, found)
    return rows


def _compared(space: str, seed: int) -> list[dict[str, Any]]:
    """One row for each method and snapshot: its members with trained losses and measured times."""
    path = OUT / f"{space}-{seed}-{MINUTES:g}min.json"
    if path.exists():
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return rows
    OUT.mkdir(parents=True, exist_ok=True)
    resolved = named_space(space)
    recipe = load_recipe(space).changed(seed=seed, minutes=MINUTES, trials=ENDLESS, finalists=0)
    with_store = Store(f"sqlite:///{OUT}/{space}.db")
    try:
        fronts = {
            (method, share): members
            for method in METHODS
            for share, members in _fronts(with_store, method, resolved, recipe, seed).items()
        }
    finally:
        with_store.close()
    archs = {t.arch_id: ArchSpec.from_json(t.arch) for members in fronts.values() for t in members}
    task = load_task(recipe.data or resolved.data, stem=resolved.stem, head=resolved.head)
    judge = TrainedQuality.of(task, recipe, recipe.alone.seed)
    losses = {arch_id: judge(arch)["loss"] for arch_id, arch in archs.items()}
    timed, failures = measure_networks(random_models(list(archs.values())), recipe.workload, samples=30)
    assert not failures, failures
    took = {m.subject: (m.value, m.p10, m.p90) for m in timed}
    rows = [
        {
            "method": method,
            "minutes": share * MINUTES,
            "members": [
                {"trial": t.number, "arch_id": t.arch_id, "loss": losses[t.arch_id], "ms": took[t.arch_id]}
                for t in members
            ],
        }
        for (method, share), members in fronts.items()
    ]
    path.write_text(json.dumps({**provenance(), "space": space, "seed": seed, "rows": rows}, indent=1) + "\n")
    return rows


def _fronts(
    store: Store, method: str, space: SpaceSpec, recipe: Recipe, seed: int
) -> dict[float, list[Trial]]:
    """Run the method, or go on where it was stopped; its front at each snapshot."""
    name = f"{method.replace(' ', '-')}-{seed}"
    if name in {s.name for s in store.studies()}:
        study = store.study(name)
    else:
        planned = plan(space, recipe.changed(**METHODS[method]), name=name)
        settings = replace(planned.settings, plain=NUM_PLAIN.get(method, 0))
        study = store.create_study(checked(replace(planned, settings=settings)))
    if not store.trials(study):
        drive(store, study, None, Choice(workers=num_cores()), Hooks())
        study = store.study(name)
    trials = store.trials(study)
    begun = _begin(study, trials)
    return {
        share: front(
            [t for t in trials if _ended(t) <= begun + timedelta(minutes=share * MINUTES)], study.objectives
        )
        for share in SNAPSHOTS
    }


def _begin(study: Study, trials: Sequence[Trial]) -> datetime:
    """When the method began: where a supernet is trained, before that."""
    return (
        datetime.fromisoformat(study.created_at).replace(tzinfo=UTC)
        if study.supernet
        else min(datetime.fromisoformat(t.started_at) for t in trials)
    )


def _ended(trial: Trial) -> datetime:
    return (
        datetime.fromisoformat(trial.finished_at) if trial.finished_at else datetime.max.replace(tzinfo=UTC)
    )


def _rows(space: str, found: dict[int, list[dict[str, Any]]]) -> list[Row]:
    rows = []
    for share in SNAPSHOTS:
        at = {
            seed: {r["method"]: r["members"] for r in rows_ if r["minutes"] == share * MINUTES}
            for seed, rows_ in found.items()
        }
        points = [p for by in at.values() for members in by.values() for p in _points(members)]
        reference = np.max(points, axis=0) * 1.01
        for method in METHODS:
            values = [
                hypervolume(_points(by[method]), reference) if by[method] else 0.0 for by in at.values()
            ]
            rows.append(_row(f"{space}, {share * MINUTES:g} min, {method}: hypervolume", values, "nats ms"))
            if method != "plain":
                ratios = [_faster(by[method], by["plain"]) for by in at.values()]
                rows.append(
                    _row(
                        f"{space}, {share * MINUTES:g} min, {method}: times faster at plain's best loss",
                        ratios,
                        "x",
                    )
                )
    return rows


def _faster(members: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> float:
    """How many times faster than plain's best network the fastest is that is as good; 0 where none is."""
    if not plain or not members:
        return 0.0
    best = min(plain, key=lambda m: m["loss"])
    as_good = [m["ms"][0] for m in members if m["loss"] <= best["loss"]]
    return best["ms"][0] / min(as_good) if as_good else 0.0


def _points(members: Sequence[dict[str, Any]]) -> Any:
    return np.array([(m["loss"], m["ms"][0]) for m in members])


def _row(name: str, values: list[float], unit: str) -> Row:
    return Row(name, median(values), min(values), max(values), unit, "", f"{len(values)} seeds")
