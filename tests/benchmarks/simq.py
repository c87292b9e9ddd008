"""Number formats searched jointly with the architecture: the recipe of SimQ-NAS on a pretrained encoder.

Inside MiniLM: depth x heads x FFN width of each layer x the format of each layer's linear maps (one for queries, keys
and values, which share an input; output, up, down). Three objectives: 1 - cosine to the whole model's embeddings of
held-out tweets, latency from operators measured here, bytes of the weights. Weights are inherited, with important heads
and units first; static formats are calibrated for every network. With EVALUATIONS evaluations each:

    joint      the guided searcher (LINAS with Gaussian processes) on all decisions at once; as in any space with
               formats, it first changes one format decision at a time
    in turn    half of the evaluations on architectures, the rest on formats for the members of their front
    uniform    the whole model with one format everywhere: the fixed architecture in all-int8

The FINALISTS of the joint fronts that are faster and smaller than the whole model in an all-int8 format, and that model
itself, are then trained in the same way (RECOVERY), with rounded weights and the whole model as teacher. They are
compared by the cosine and, as in SimQ-NAS, on a task: Pearson's correlation with the ratings of tweets. An interrupted
benchmark continues: every evaluation is stored below out/simq. Sarah, Cummings et al., "SimQ-NAS", arXiv:2312.13301.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nas
from nas.distillation import distill
from nas.evaluation.inherited import InheritedQuality, quality
from nas.importing.space import space_data
from nas.machine import measuring
from nas.provenance import provenance
from nas.request.recipe import Recipe
from nas.setup.imported_supernet import pretrained_supernet
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable
from predictors.profiling import local_profile
from predictors.timing import num_threads
from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, quant_policy
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.errors import UnknownStudy
from studies.pareto import hypervolume, non_dominated
from tests.benchmarks import minilm
from tests.benchmarks.rows import Row

WORK, RESULTS = Path("out/simq"), Path("studies/results/simq")
FORMATS = ["native", "bf16", "int8_dynamic", "int8_static"]
INT8 = ("int8_dynamic", "int8_static")
OBJECTIVES = ("loss", "latency", "memory")
WORKLOAD = Workload(seq_len=128)
EVALUATIONS, SEEDS, FINALISTS = 60, (0, 1, 2), 3
VALIDATION, CALIBRATION, HELD_OUT = (
    16,
    16,
    160,
)  # tweets: for a search, for static formats, for recovery
RECOVERY = replace(minilm.RECOVERY, learning_rate=2e-5)  # a larger rate would harm nearly converged weights
REFERENCE = (
    0.5,
    1.05,
    1.05,
)  # reference point: a cosine of .5; 105 % of the whole model's latency and bytes

Values = dict[str, float]
Run = list[tuple[ArchSpec, Values]]


@cache
def space(formats: tuple[str, ...] = tuple(FORMATS)) -> SpaceSpec:
    arch = minilm.model().arch
    data = space_data(arch, "simq", "")
    data["d_model"] = arch.d_model
    data["stages"] = [{"num_blocks": len(arch.blocks), "depth": [4, 5, 6]}]
    data["blocks"] |= {
        "mixer": arch.blocks[0].mixer.to_json() | {"num_groups": [6, 9, 12]},
        "ffn": arch.blocks[0].ffn.to_json() | {"d_ff": [768, 1152, 1344, 1536]},
    }
    data["blocks"]["quant"] = {role: list(formats) for role in ("qkv", "o", "up", "down")}
    return resolve(data)


@cache
def judged() -> InheritedQuality:
    task = minilm.task()
    supernet = pretrained_supernet(space(), task, minilm.model())
    calibration = [task.batch(0, CALIBRATION, 1)]
    return InheritedQuality(supernet, task, task.validation(VALIDATION, VALIDATION), calibration)


@cache
def profile() -> DeviceProfile:
    with measuring("cpu"):
        return local_profile(space(), WORKLOAD, WORK / "profiles", num_networks=12)


@cache
def table() -> OperatorTable:
    return OperatorTable.of_profile(profile(), space().name)


def evaluate(arch: ArchSpec) -> Values:
    """Return loss, latency in ms and memory in MB."""
    latency = table().latency(arch, WORKLOAD).value_ms
    return {
        "loss": judged()(arch)["loss"],
        "latency": latency,
        "memory": cost(arch, WORKLOAD).weight_bytes / 1e6,
    }


def run() -> list[Row]:
    with num_threads(1):
        return compared()


def compared() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = _Kept("uniform", evaluate)
    fixed = {name: kept(with_formats(minilm.model().arch, [name])) for name in FORMATS}
    found: dict[str, list[Run]] = {"joint": [], "in turn": []}
    for seed in SEEDS:
        found["joint"].append(searched(f"joint-{seed}", space(), EVALUATIONS, seed))
        found["in turn"].append(in_turn(seed))
    return write(fixed, found, {name: finals(name, fixed[name], found["joint"]) for name in INT8})


def searched(name: str, space: SpaceSpec, trials: int, seed: int) -> Run:
    """Return all evaluations of a study, which resumes where it was interrupted."""
    db = f"sqlite:///{WORK / 'nas.db'}"
    recipe = Recipe(space.name, objectives=OBJECTIVES, searcher="guided", trials=trials, seed=seed, lag=1)
    try:
        done = nas.read(name, db=db)
    except UnknownStudy:
        done = nas.search(
            space=space, objectives=OBJECTIVES, evaluate=evaluate, study=name, db=db, recipe=recipe
        )
    if len(done.trials) < trials:
        done = nas.resume(name, db=db, evaluate=evaluate)
    complete = [t for t in done.trials if t.state == "complete"]
    print(f"{name}: {len(complete)} of {len(done.trials)} trials complete", flush=True)
    return [(ArchSpec.from_json(t.arch), dict(t.values)) for t in complete]


def in_turn(seed: int) -> Run:
    """Search architectures in native precision, then, for their front, uniform formats and mixtures of formats."""
    first = searched(f"architecture-{seed}", space(("native",)), EVALUATIONS // 2, seed)
    front = sorted(_front(first), key=lambda member: member[1]["loss"])
    rng = np.random.default_rng(seed)
    chosen: dict[str, ArchSpec] = {}
    plans = [*FORMATS[1:], *["mixed"] * EVALUATIONS]
    for plan, (arch, _) in ((p, member) for p in plans for member in front):
        arch = with_formats(
            arch, [plan] if plan != "mixed" else rng.choice(FORMATS, len(arch.blocks) * 4).tolist()
        )
        chosen.setdefault(arch.id, arch)
        if len(chosen) == EVALUATIONS - len(first):
            break
    kept = _Kept(f"formats-{seed}", evaluate)
    return first + [(arch, kept(arch)) for arch in chosen.values()]


def with_formats(arch: ArchSpec, names: Sequence[str]) -> ArchSpec:
    """Return the architecture with these formats, in order of the decisions of its active blocks."""
    decisions = [d for _, d in space().stages[0].blocks[0].quant]
    values = cycle(map(str, names))
    blocks = [
        replace(b, quant=quant_policy([(d, next(values)) for d in decisions])) if b.is_active else b
        for b in arch.blocks
    ]
    found = replace(arch, blocks=tuple(blocks))
    Encoding(space()).encode(found)  # raises where it is outside the space
    return found


class _Kept:
    """Caches the results of `judge` on disk as they are known."""

    def __init__(self, name: str, judge: Callable[[ArchSpec], Values]) -> None:
        self.path, self.judge = WORK / f"{name}.jsonl", judge
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known: dict[str, Values] = dict(json.loads(line) for line in lines)

    def __call__(self, arch: ArchSpec) -> Values:
        if arch.id not in self.known:
            self.known[arch.id] = self.judge(arch)
            with self.path.open("a") as file:
                file.write(json.dumps([arch.id, self.known[arch.id]]) + "\n")
        return self.known[arch.id]


# finalists


def finals(name: str, fixed: Values, runs: Sequence[Run]) -> dict[str, Any]:
    """Compare the whole model in one format with the joint finalists, as found and after recovery."""
    kept = _Kept("recovered", recovered)
    members = {a.id: (a, v) for run in runs for a, v in _front(run) if _is_cheaper(v, fixed)}
    best = sorted(members.values(), key=lambda member: member[1]["loss"])[:FINALISTS]
    whole = with_formats(minilm.model().arch, [name])
    bar, *found = [{**v, **kept(a)} for a, v in [(whole, fixed), *best]]
    print(name, bar, found, flush=True)
    return {
        "whole_model": bar,
        "faster_and_no_larger_on_the_joint_fronts": len(members),
        "finalists": [{**f, "blocks": _shown(a)} for f, (a, _) in zip(found, best, strict=True)],
        "dominating": sum(f["held_out"] <= bar["held_out"] for f in found),
        "dominating_after_recovery": sum(f["recovered"] <= bar["recovered"] for f in found),
        "dominating_on_the_ratings": sum(f["pearson"] >= bar["pearson"] for f in found),
    }


def _is_cheaper(values: Values, other: Values) -> bool:
    """Whether `values` are faster and not larger, apart from 8 bytes per map for static ranges."""
    return values["latency"] < other["latency"] and values["memory"] <= other["memory"] + 36 * 8e-6


def recovered(arch: ArchSpec) -> Values:
    """Return losses on HELD_OUT tweets before and after training with rounded weights, and the rating correlation."""
    judge, task = judged(), minilm.task()
    shared, held_out = judge.supernet, task.validation(HELD_OUT, VALIDATION)
    before = {name: tensor.detach().clone() for name, tensor in shared.tensors.items()}
    found = {"held_out": quality(judge.network(arch), held_out)["loss"]}

    def network(inputs: Tensor, tokens: Tokens) -> tuple[Tensor]:
        return (shared.forward(arch, inputs, tokens=tokens),)

    trained = [t for n, t in shared.tensors.items() if n.startswith("blocks.") and t.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        distill(network, trained, lambda x, t: task.teacher(x, t)[0], task, RECOVERY)  # type: ignore[arg-type]
    network_after = judge.network(arch)
    found["recovered"] = quality(network_after, held_out)["loss"]
    found["pearson"] = minilm.correlation(minilm.embedded(network_after))
    with torch.no_grad():
        for name, tensor in shared.tensors.items():
            tensor.copy_(before[name])
    return found


# output


def write(fixed: dict[str, Values], found: dict[str, list[Run]], final: dict[str, Any]) -> list[Row]:
    whole = fixed["native"]

    def point(values: Values) -> list[float]:
        return [values["loss"], values["latency"] / whole["latency"], values["memory"] / whole["memory"]]

    volumes = {
        method: [hypervolume([point(v) for _, v in trials], REFERENCE) for trials in runs]
        for method, runs in found.items()
    }
    about = {
        "model": minilm.PACKAGE,
        **provenance(),
        "workload": WORKLOAD.to_json(),
        "latency": "predicted from operators measured here; error of left-out networks "
        f"{table().correction.error:.3f}",
        "loss": f"1 - cosine to the whole model's embeddings of {VALIDATION} held-out tweets; held_out and "
        f"recovered: of {HELD_OUT}",
        "pearson": f"of ratings said after recovery and given, of {minilm.RATED} tweets; its standard error is "
        f"(1 - pearson^2) / {minilm.RATED**0.5:.0f}",
        "evaluations": EVALUATIONS,
        "seeds": list(SEEDS),
        "recovery": asdict(RECOVERY),
        "reference": dict(zip(OBJECTIVES, REFERENCE, strict=True)),
        "whole_model": fixed,
        "hypervolume": volumes,
        "against_all_int8_of_the_whole_model": final,
        "fronts": {
            method: [
                {**v, "blocks": _shown(a)} for a, v in sorted(_front(runs[0]), key=lambda m: m[1]["loss"])
            ]
            for method, runs in found.items()
        },
    }
    (RESULTS / "simq.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    baseline = f"in turn {np.median(volumes['in turn']):.4f}"
    rows = [
        Row(f"SimQ-NAS, {m}: hypervolume", float(np.median(v)), min(v), max(v), "", "", baseline)
        for m, v in volumes.items()
    ]
    for name, f in final.items():
        for key, what in (("recovered", "1 - cosine after recovery"), ("pearson", "Pearson with ratings")):
            after = [x[key] for x in f["finalists"]]
            if after:
                label = f"SimQ-NAS, {len(after)} finalists cheaper than all {name}: {what}"
                note = f"all {name} {f['whole_model'][key]:.4f}"
                rows.append(Row(label, float(np.median(after)), min(after), max(after), "", "", note))
    return rows


def _front(run: Run) -> Run:
    keep = non_dominated(np.array([[v[n] for n in OBJECTIVES] for _, v in run]))
    return [member for member, k in zip(run, keep, strict=True) if k]


def _shown(arch: ArchSpec) -> list[str]:
    return [
        f"heads={b.mixer['num_groups']} d_ff={b.ffn['d_ff']} {b.quant}" for b in arch.blocks if b.is_active
    ]
