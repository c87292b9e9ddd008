"""Number formats searched together with the architecture: the recipe of SimQ-NAS on a pretrained encoder.

Inside MiniLM: depth x heads x FFN width of each layer x the format of each layer's linear maps (queries, keys and
values as one, since they read the same input; output, up, down). Three objectives: 1 - cosine to the whole model's
embeddings of held-out tweets, latency from operators measured here, bytes of the weights. Weights are inherited,
nothing is trained; static formats are calibrated for every network. Compared at EVALUATIONS evaluations each:

    joint      the guided searcher, which is LINAS with Gaussian processes, and NSGA-II, on everything at once
    joint, from sensitivities    the guided searcher after the whole model with one decision changed at a time
    in turn    half of the evaluations on architectures, the rest on formats for the members of their front
    uniform    the whole model with one format everywhere: the fixed architecture in all-int8

Interrupted, it goes on where it was: every evaluation is kept in out/simq/nas.db. Sarah, Cummings et al., "SimQ-NAS",
arXiv:2312.13301.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

import nas
from nas.evaluation.inherited import InheritedQuality
from nas.importing.space import space_data
from nas.importing.store import pretrained_supernet
from nas.machine import measuring, source_commit
from nas.searchers.base import Problem, Told
from nas.searchers.guided_searcher import GuidedSearcher
from nas.setup.recipe import Recipe
from predictors.device import DeviceProfile, device_name, software
from predictors.lookup import OperatorTable
from predictors.profiling import local_profile
from searchspace.cost import cost
from searchspace.load import resolve
from searchspace.quantization.sensitivity import one_role_at_a_time
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding, quant_policy
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from searchspace.validity import why_invalid
from studies.errors import UnknownStudy
from studies.pareto import hypervolume, non_dominated
from tests.benchmarks import minilm
from tests.benchmarks.rows import Row

WORK, RESULTS = Path("out/simq"), Path("studies/results/simq")
FORMATS = ["native", "bf16", "int8_dynamic", "int8_static"]
OBJECTIVES = ("loss", "latency", "memory")
WORKLOAD = Workload(seq_len=128)
SEARCHERS = ("guided", "nsga2")
EVALUATIONS, SEEDS = 60, (0,)
VALIDATION, CALIBRATION = 16, 16  # tweets
REFERENCE = (
    0.5,
    1.05,
    1.05,
)  # the worst that counts: a cosine of .5, and the whole model's latency and bytes and 5 %

Values = dict[str, float]


@cache
def space(formats: tuple[str, ...] = tuple(FORMATS)) -> SpaceSpec:
    arch = minilm.model().arch
    data = space_data(arch, "simq", "")
    data["stages"] = [{"num_blocks": len(arch.blocks), "depth": [4, 5, 6]}]
    data["blocks"] |= {
        "mixer": arch.blocks[0].mixer.to_json() | {"num_groups": [6, 9, 12]},
        "ffn": arch.blocks[0].ffn.to_json() | {"d_ff": [768, 1152, 1536]},
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
    """loss, latency in ms, memory in MB."""
    torch.set_num_threads(1)
    latency = table().latency(arch, WORKLOAD).value_ms
    return {
        "loss": judged()(arch)["loss"],
        "latency": latency,
        "memory": cost(arch, WORKLOAD).weight_bytes / 1e6,
    }


def run() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    fixed = uniform()
    found: dict[str, list[list[tuple[ArchSpec, Values]]]] = {}
    for seed in SEEDS:
        for searcher in SEARCHERS:
            found.setdefault(f"joint, {searcher}", []).append(
                searched(f"joint-{searcher}-{seed}", space(), searcher, EVALUATIONS, seed)
            )
        found.setdefault("joint, guided, from sensitivities", []).append(from_sensitivities(seed))
        found.setdefault("in turn, guided", []).append(in_turn(seed))
    return write(fixed, found)


def searched(
    name: str,
    space: SpaceSpec,
    searcher: str,
    trials: int,
    seed: int,
    judge: Callable[..., Values] = evaluate,
) -> list[tuple[ArchSpec, Values]]:
    """All evaluations of a study, which goes on where it was."""
    db = f"sqlite:///{WORK / 'nas.db'}"
    recipe = Recipe(space.name, objectives=OBJECTIVES, searcher=searcher, trials=trials, seed=seed, lag=1)
    try:
        done = nas.read(name, db=db)
    except UnknownStudy:
        done = nas.search(
            space=space, objectives=OBJECTIVES, evaluate=judge, study=name, db=db, recipe=recipe
        )
    if len(done.trials) < trials:
        done = nas.resume(name, db=db, evaluate=judge)
    complete = [t for t in done.trials if t.state == "complete"]
    print(f"{name}: {len(complete)} of {len(done.trials)} trials complete", flush=True)
    return [(ArchSpec.from_json(t.arch), dict(t.values)) for t in complete]


def from_sensitivities(seed: int) -> list[tuple[ArchSpec, Values]]:
    """The first evaluations change one decision of the whole model in all-int8; the searcher learns from them."""
    kept, encoding = _Kept(WORK / f"sensitivities-{seed}.jsonl"), Encoding(space())
    base = with_formats(minilm.model().arch, ["int8_static"])
    first = [with_formats(base, [name]) for name in FORMATS]
    first += [a for a in one_role_at_a_time(encoding, base) if "native" not in _formats_of(a)]
    first += _one_size_less(encoding, base)
    done = {arch.id: (arch, kept(arch)) for arch in first}
    told = [_told(encoding, i, arch, values) for i, (arch, values) in enumerate(done.values())]
    problem = Problem(encoding, len(OBJECTIVES), seed, lambda a: "known" if a.id in done else why_invalid(a))
    searcher = GuidedSearcher(problem, earlier=told)
    for number in range(EVALUATIONS - len(done)):
        arch = searcher.ask(number).arch
        done[arch.id] = arch, kept(arch)
        searcher.tell(_told(encoding, number, *done[arch.id]))
    return list(done.values())


def _told(encoding: Encoding, number: int, arch: ArchSpec, values: Values) -> Told:
    return Told(number, encoding.encode(arch), np.array([values[n] for n in OBJECTIVES]), 0.0, "complete")


def _formats_of(arch: ArchSpec) -> set[str]:
    return {b.quant.of_role(role).name for b in arch.blocks for role in ("q", "o", "up", "down")}


def _one_size_less(encoding: Encoding, base: ArchSpec) -> list[ArchSpec]:
    """Fewer heads, or a narrower FFN, in one block."""
    genome, found = encoding.encode(base), []
    for index, variable in enumerate(encoding.variables):
        if variable.name.endswith(("num_groups", "d_ff")) and genome[index]:
            found.append(encoding.decode((*genome[:index], genome[index] - 1, *genome[index + 1 :])))
    return found


def in_turn(seed: int) -> list[tuple[ArchSpec, Values]]:
    """Architectures in native numbers first; then, for the front found, one format everywhere and mixtures."""
    first = searched(f"architecture-{seed}", space(("native",)), "guided", EVALUATIONS // 2, seed)
    points = np.array([list(v.values()) for _, v in first])
    front = [first[i] for i in np.flatnonzero(non_dominated(points))]
    front.sort(key=lambda found: found[1]["loss"])
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
    kept = _Kept(WORK / f"formats-{seed}.jsonl")
    return first + [(arch, kept(arch)) for arch in chosen.values()]


def uniform() -> dict[str, Values]:
    kept = _Kept(WORK / "uniform.jsonl")
    return {name: kept(with_formats(minilm.model().arch, [name])) for name in FORMATS}


def with_formats(arch: ArchSpec, names: Sequence[str]) -> ArchSpec:
    """The formats in turn, for the decisions of each block that is active."""
    decisions = [d for _, d in space().stages[0].blocks[0].quant]
    values = cycle(map(str, names))
    blocks = [
        replace(b, quant=quant_policy([(d, next(values)) for d in decisions])) if b.is_active else b
        for b in arch.blocks
    ]
    found = replace(arch, blocks=tuple(blocks))
    Encoding(space()).encode(found)  # raises where it is not in the space
    return found


class _Kept:
    """Evaluations that are written down as they are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, Values] = dict(json.loads(line) for line in lines)

    def __call__(self, arch: ArchSpec) -> Values:
        if arch.id not in self.known:
            self.known[arch.id] = evaluate(arch)
            with self.path.open("a") as file:
                file.write(json.dumps([arch.id, self.known[arch.id]]) + "\n")
        return self.known[arch.id]


# what is written


def write(fixed: dict[str, Values], found: dict[str, list[list[tuple[ArchSpec, Values]]]]) -> list[Row]:
    whole = fixed["native"]

    def point(values: Values) -> list[float]:
        return [values["loss"], values["latency"] / whole["latency"], values["memory"] / whole["memory"]]

    volumes = {
        method: [hypervolume([point(v) for _, v in trials], REFERENCE) for trials in runs]
        for method, runs in found.items()
    }
    int8 = {n: v for n, v in fixed.items() if n.startswith("int8")}
    dominating = {
        method: {
            n: [v for _, v in runs[0] if _dominates(v, fixed_values)] for n, fixed_values in int8.items()
        }
        for method, runs in found.items()
    }
    about = {
        "model": minilm.PACKAGE,
        "device": device_name("cpu"),
        "software": software(),
        "commit": source_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "workload": WORKLOAD.to_json(),
        "latency": "predicted from operators measured here; error of left-out networks "
        f"{table().correction.error:.3f}",
        "loss": f"1 - cosine to the whole model's embeddings of {VALIDATION} held-out tweets",
        "evaluations": EVALUATIONS,
        "seeds": list(SEEDS),
        "reference": dict(zip(OBJECTIVES, REFERENCE, strict=True)),
        "whole_model": fixed,
        "hypervolume": volumes,
        "dominating_all_int8_of_the_whole_model": {
            m: {
                n: {"count": len(v), "best": min(v, key=lambda x: x["latency"], default=None)}
                for n, v in d.items()
            }
            for m, d in dominating.items()
        },
        "fronts": {method: _front(runs[0]) for method, runs in found.items()},
    }
    (RESULTS / "simq.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    baseline = f"in turn {np.median(volumes['in turn, guided']):.4f}"
    return [
        Row(f"SimQ-NAS, {m}: hypervolume", float(np.median(v)), min(v), max(v), "", "", baseline)
        for m, v in volumes.items()
    ]


def _dominates(values: Values, other: Values) -> bool:
    """At least as good in quality and faster, in at most as many bytes but for the 8 of a static range."""
    bytes_ok = values["memory"] <= other["memory"] + 36 * 8e-6
    return values["loss"] <= other["loss"] and values["latency"] < other["latency"] and bytes_ok


def _front(trials: Sequence[tuple[ArchSpec, Values]]) -> list[dict[str, object]]:
    keep = non_dominated(np.array([[v[n] for n in OBJECTIVES] for _, v in trials]))
    found = [
        {**v, "blocks": [_short(b) for b in a.blocks if b.is_active]}
        for (a, v), k in zip(trials, keep, strict=True)
        if k
    ]
    return sorted(found, key=lambda member: member["loss"])  # type: ignore[arg-type, return-value]


def _short(block: object) -> str:
    mixer, ffn = block.mixer, block.ffn  # type: ignore[attr-defined]
    return f"heads={mixer['num_groups']} d_ff={ffn['d_ff']} {block.quant}"  # type: ignore[attr-defined]
