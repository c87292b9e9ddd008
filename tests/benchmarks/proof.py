"""What a search returns, compared with what its user would have done instead in the same time on the same machine.

    search           the default: guided, with more training for more promising networks
    plain            uniform networks of full attention, each trained alone, one after the other
    random           random networks, trained in the same way
    nsga2 supernet   NSGA-II on the weights of a supernet, whose training time counts

Each gets MINUTES of wall time on all cores, without the device profile. Every member of every front is then trained
alone by the whole recipe, and all are timed interleaved in one run. Finished parts are stored in OUT and not repeated.
NAS_PROOF_SPACES, NAS_PROOF_SEEDS and NAS_PROOF_MINUTES select what is run, by default small-lm, 0,1,2 and 20;
NAS_PROOF_METHODS selects methods, since all of them take hours.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from statistics import median
from typing import Any

import numpy as np

from nas.api import Hooks, drive
from nas.evaluation.trained import TrainedQuality, build
from nas.finalists import spread
from nas.home import home
from nas.machine import num_cores
from nas.provenance import provenance
from nas.request.recipe import Recipe, load_recipe
from nas.setup.plan import checked, named_space, plan, recipe_of
from nas.setup.runners import Choice
from nas.tasks.load import load_task
from predictors.network_bench import measure_networks
from predictors.profiling import random_models
from searchspace.cost import cost
from searchspace.plain import plain_family
from searchspace.sampling import valid_architectures
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.validity import why_invalid
from studies.pareto import front
from studies.records import Study, Trial
from studies.store import Store
from tests.benchmarks.proof_figures import figures
from tests.benchmarks.rows import Row

OUT = Path("studies/results/proof")
SPACES = os.environ.get("NAS_PROOF_SPACES", "small-lm").split(",")
SEEDS = [int(seed) for seed in os.environ.get("NAS_PROOF_SEEDS", "0,1,2").split(",")]
MINUTES = float(os.environ.get("NAS_PROOF_MINUTES", "20"))
SNAPSHOTS = (0.25, 1.0)  # share of the time
ENDLESS = 100_000
NUM_PLAIN = 64  # more than can be trained in the time
MAX_MEMBERS = 64  # of a front that are trained alone and timed, spread along it; no front here has more
SAMPLES = 30  # timings per network
STEPS_A_MINUTE = 60  # supernet steps per minute of the search: about half of the time on two cores
STUDIES: dict[str, dict[str, Any]] = {
    "search": {},
    "nsga2 supernet": {"searcher": "nsga2", "quality": "supernet", "ladder": ()},
}
METHODS = os.environ.get("NAS_PROOF_METHODS", "search,plain,random,nsga2 supernet").split(",")


def run() -> list[Row]:
    rows = []
    for space in SPACES:
        for found in figures([_compared(space, seed) for seed in SEEDS]):
            for title, values in found.values.items():
                name = f"{space}, {found.minutes:g} min, {found.method}: {title}"
                rows.append(
                    Row(name, median(values), min(values), max(values), "", "", f"{len(values)} seeds")
                )
    return rows


def _compared(space: str, seed: int) -> list[dict[str, Any]]:
    """One row per method and snapshot: the members of its front with trained losses and measured times.

    Methods that ran before are not repeated; when a method is added, all members are timed again together with its own.
    """
    path = OUT / f"{space}-{seed}-{MINUTES:g}min.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    missing = [method for method in METHODS if method not in {row["method"] for row in rows}]
    if not missing:
        return rows
    OUT.mkdir(parents=True, exist_ok=True)
    resolved = named_space(space)
    recipe = load_recipe(space).changed(seed=seed, minutes=MINUTES, trials=ENDLESS, finalists=0)
    recipe = replace(
        recipe, alone=recipe_of(checked(plan(resolved, recipe, name=space))).alone, fits_time=False
    )
    found = [
        (row["method"], row["minutes"], [ArchSpec.from_json(m["arch"]) for m in row["members"]])
        for row in rows
    ]
    for method in missing:
        with _home_of_its_own(f"{space}-{method}-{seed}"):
            at = _found(method, resolved, recipe, seed)
        found += [(method, share * MINUTES, members) for share, members in at.items()]
    archs = {arch.id: arch for _, _, members in found for arch in members}
    task = load_task(recipe.data or resolved.data, stem=resolved.stem, head=resolved.head)
    with _workers(resolved, recipe) as pool:
        list(pool.map(_train, [arch.to_json() for arch in archs.values()]))
    judge = TrainedQuality.of(task, recipe, recipe.alone.seed)  # finds the trained networks
    losses = {arch_id: judge(arch)["loss"] for arch_id, arch in archs.items()}
    timed, failures = measure_networks(random_models(list(archs.values())), recipe.workload, samples=SAMPLES)
    assert not failures, failures
    took = {m.subject: (m.value, m.p10, m.p90) for m in timed}
    rows = [
        {
            "method": method,
            "minutes": minutes,
            "members": [
                {"arch": a.to_json(), "loss": losses[a.id], "ms": took[a.id], **_state(a, recipe)}
                for a in members
            ],
        }
        for method, minutes, members in found
    ]
    content = {**provenance(), "space": space, "seed": seed, "rows": rows}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return rows


def _state(arch: ArchSpec, recipe: Recipe) -> dict[str, int]:
    """What decoding keeps, where the study counts it."""
    return (
        {"state_bytes": cost(arch, recipe.workload).state_bytes} if "state_bytes" in recipe.objectives else {}
    )


@contextmanager
def _home_of_its_own(name: str) -> Iterator[None]:
    """Isolate what each method trains, then merge it into one place. The device profile is shared."""
    shared, own = home(), home() / "proof" / name
    own.mkdir(parents=True, exist_ok=True)
    (shared / "profiles").mkdir(parents=True, exist_ok=True)
    if not (own / "profiles").exists():
        (own / "profiles").symlink_to((shared / "profiles").absolute())
    before = os.environ.get("NAS_HOME")
    os.environ["NAS_HOME"] = str(own)
    try:
        yield
    finally:
        os.environ.pop("NAS_HOME")
        if before is not None:
            os.environ["NAS_HOME"] = before
    if (own / "trained").exists():
        copytree(own / "trained", shared / "trained", copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    if not Path(target).exists():
        os.link(source, target)


def _found(method: str, space: SpaceSpec, recipe: Recipe, seed: int) -> dict[float, list[ArchSpec]]:
    """Run or resume the method; returns its networks at each snapshot."""
    if method not in STUDIES:
        return _one_after_the_other(method, space, recipe, seed)
    store = Store(f"sqlite:///{OUT}/{space.name}.db")
    name = f"{method.replace(' ', '-')}-{seed}-{MINUTES:g}min"
    try:
        if name in {s.name for s in store.studies()}:
            study = store.study(name)
        else:
            training = replace(recipe.training, steps=round(STEPS_A_MINUTE * MINUTES))
            wanted = replace(recipe.changed(**STUDIES[method]), training=training)
            study = store.create_study(checked(plan(space, wanted, name=name)))
        if not store.trials(study):
            drive(store, study, None, Choice(workers=num_cores()), Hooks())
            study = store.study(name)
        trials = store.trials(study)
    finally:
        store.close()
    begun = _begin(study, trials)
    return {
        share: [
            ArchSpec.from_json(t.arch)
            for t in spread(
                front(
                    [t for t in trials if _ended(t) <= begun + timedelta(minutes=share * MINUTES)],
                    study.objectives,
                ),
                MAX_MEMBERS,
            )
        ]
        for share in SNAPSHOTS
    }


def _begin(study: Study, trials: Sequence[Trial]) -> datetime:
    """Start time of the method, including the training of its supernet."""
    return (
        datetime.fromisoformat(study.created_at).replace(tzinfo=UTC)
        if study.supernet
        else min(datetime.fromisoformat(t.started_at) for t in trials)
    )


def _ended(trial: Trial) -> datetime:
    return (
        datetime.fromisoformat(trial.finished_at) if trial.finished_at else datetime.max.replace(tzinfo=UTC)
    )


def _one_after_the_other(
    method: str, space: SpaceSpec, recipe: Recipe, seed: int
) -> dict[float, list[ArchSpec]]:
    """Everything that was fully trained in the time; which networks are on the front is known once all are timed."""
    path = OUT / f"{space.name}-{method}-{seed}-{MINUTES:g}min.jsonl"
    if not path.exists():
        lines = [
            json.dumps({"seconds": at, "arch": arch.to_json()})
            for at, arch in _trained(method, space, recipe, seed)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        share: [ArchSpec.from_json(r["arch"]) for r in rows if r["seconds"] <= share * MINUTES * 60]
        for share in SNAPSHOTS
    }


def _trained(method: str, space: SpaceSpec, recipe: Recipe, seed: int) -> Iterator[tuple[float, ArchSpec]]:
    """Yield (seconds since the start, network) as each training ends, running on every core."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    drawn = (
        map(encoding.decode, plain_family(encoding, why_invalid, recipe.workload, count=NUM_PLAIN))
        if method == "plain"
        else (arch for _, arch in valid_architectures(encoding, rng, recipe.workload))
    )
    begun = time.monotonic()
    with _workers(space, recipe) as pool:
        running: dict[Future[None], ArchSpec] = {
            pool.submit(_train, a.to_json()): a for a in islice(drawn, num_cores())
        }
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield time.monotonic() - begun, running.pop(future)
                arch = next(drawn, None) if time.monotonic() - begun < MINUTES * 60 else None
                if arch is not None:
                    running[pool.submit(_train, arch.to_json())] = arch


def _workers(space: SpaceSpec, recipe: Recipe) -> ProcessPoolExecutor:
    given = (space.to_json(), recipe.to_json(), recipe.alone.seed)
    return ProcessPoolExecutor(num_cores(), get_context("spawn"), _begin_worker, given)


_JUDGE: TrainedQuality


def _begin_worker(*given: Any) -> None:
    global _JUDGE
    _JUDGE = build(*given)


def _train(arch: dict[str, Any]) -> None:
    _JUDGE(ArchSpec.from_json(arch))
