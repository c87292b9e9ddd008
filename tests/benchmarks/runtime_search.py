"""Whether it pays to search for latency in the runtime in which a network is deployed.

For each seed the default search runs twice: for latency in onnxruntime, and for latency in eager torch. The members of
both fronts are then timed together in onnxruntime. The searches share trained networks, which does not affect the
result, since both end after the same number of trials. NAS_RUNTIME_SPACES and NAS_RUNTIME_SEEDS select what is run, by
default small-lm and 0,1,2. Each space and seed has a file in studies/results/runtime and is not repeated.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas.api import Hooks, drive
from nas.finalists import spread
from nas.machine import num_cores
from nas.provenance import provenance
from nas.request.recipe import load_recipe
from nas.setup.plan import checked, named_space, plan
from nas.setup.runners import Choice
from predictors.network_bench import measure_networks
from predictors.profiling import random_models
from predictors.runtimes import EAGER, ONNXRUNTIME
from searchspace.spec.arch import ArchSpec
from studies.pareto import Points, front, hypervolume
from studies.store import Store
from tests.benchmarks.proof_figures import BEYOND
from tests.benchmarks.rows import Row

OUT, WORK = Path("studies/results/runtime"), Path("out/runtime-search")
SPACES = os.environ.get("NAS_RUNTIME_SPACES", "small-lm").split(",")
SEEDS = [int(seed) for seed in os.environ.get("NAS_RUNTIME_SEEDS", "0,1,2").split(",")]
MAX_MEMBERS, SAMPLES = 12, 30
Members = list[dict[str, Any]]


def run() -> list[Row]:
    rows = []
    for space in SPACES:
        found = [_compared(space, seed) for seed in SEEDS]
        volumes = [_volumes(f) for f in found]
        shares = [_beaten(f[ONNXRUNTIME], f[EAGER]) for f in found]
        back = [_beaten(f[EAGER], f[ONNXRUNTIME]) for f in found]
        ratios = [of_onnx / of_eager for of_onnx, of_eager in volumes]
        taus = [_tau(f) for f in found]
        rows += [
            _row(
                f"{space}: hypervolume in onnxruntime, searched for it over searched for eager", ratios, "> 1"
            ),
            _row(
                f"{space}: of eager's front, beaten or met by the other",
                shares,
                "1",
                f"the other way {median(back):.2f}",
            ),
            _row(f"{space}: Kendall's tau of both latencies over all members", taus),
        ]
    return rows


def _compared(space: str, seed: int) -> dict[str, Members]:
    """Return the members of both fronts with trained losses and with times in both runtimes."""
    path = OUT / f"{space}-{seed}.json"
    if path.exists():
        known: dict[str, Members] = json.loads(path.read_text(encoding="utf-8"))["fronts"]
        return known
    OUT.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    store = Store(f"sqlite:///{WORK}/{space}.db")
    try:
        fronts = {runtime: _front(store, space, seed, runtime) for runtime in (EAGER, ONNXRUNTIME)}
    finally:
        store.close()
    archs = {arch.id: arch for members in fronts.values() for _, arch in members}
    workload = load_recipe(space).workload
    took: dict[str, dict[str, Any]] = {arch_id: {} for arch_id in archs}
    for runtime in (EAGER, ONNXRUNTIME):
        models = random_models(list(archs.values()))
        timed, failures = measure_networks(models, workload, samples=SAMPLES, runtime=runtime)
        assert not failures, failures
        for m in timed:
            took[m.subject][runtime] = (m.value, m.p10, m.p90)
    found = {
        runtime: [{"arch": arch.to_json(), "loss": loss, **took[arch.id]} for loss, arch in members]
        for runtime, members in fronts.items()
    }
    content = {**provenance(), "space": space, "seed": seed, "fronts": found}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return found


def _front(store: Store, space: str, seed: int, runtime: str) -> list[tuple[float, ArchSpec]]:
    """Return (loss, network) of up to MAX_MEMBERS of the front, spread along it."""
    name = f"{runtime}-{seed}"
    if name in {s.name for s in store.studies()}:
        study = store.study(name)
    else:
        recipe = load_recipe(space).changed(seed=seed, runtime=runtime, finalists=0)
        study = store.create_study(checked(plan(named_space(space), recipe, name=name)))
    drive(store, study, None, Choice(workers=num_cores()), Hooks())
    members = spread(front(store.trials(study), study.objectives), MAX_MEMBERS)
    return [(t.values["loss"], ArchSpec.from_json(t.arch)) for t in members]


def _points(members: Members) -> Points:
    return np.array([(m["loss"], m[ONNXRUNTIME][0]) for m in members], dtype=np.float64)


def _volumes(found: dict[str, Members]) -> tuple[float, float]:
    """Hypervolumes (of the search for onnxruntime, of the search for eager torch)."""
    reference = np.vstack([_points(members) for members in found.values()]).max(axis=0) * BEYOND
    return hypervolume(_points(found[ONNXRUNTIME]), reference), hypervolume(_points(found[EAGER]), reference)


def _beaten(by: Members, members: Members) -> float:
    """Share of `members` to which one of `by` is no worse in loss and no slower."""
    ours = _points(by)
    return float(np.mean([(ours <= point).all(axis=1).any() for point in _points(members)]))


def _tau(found: dict[str, Members]) -> float:
    everything = [m for members in found.values() for m in members]
    eager, onnx = ([m[runtime][0] for m in everything] for runtime in (EAGER, ONNXRUNTIME))
    return float(kendalltau(eager, onnx).statistic)


def _row(name: str, values: list[float], aim: str = "", baseline: str = "") -> Row:
    return Row(name, median(values), min(values), max(values), "", aim, baseline)
