"""A pretrained decoder linearized by every route, compared with the same training of the original decoder.

The decoder is glassllm. It has memorised its own text and knows little else, so it is first trained on the plays, with
its own tokenizer; the result is the teacher. Each route replaces the attention of all four layers, as `nas linearize`
does: copy, attention transfer, low-rank recovery. The trivial baseline applies only that recovery to the unchanged
teacher, for as many steps on the same batches: where a linearized network is below the teacher's loss, this shows how
much is due to the steps. Losses are on held-out plays, with noise over SEEDS; latencies are of the first seed.

An interrupted benchmark continues: finished runs are lines of runs.jsonl. Lines with other settings are ignored.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from statistics import fmean

from nas.evaluation.inherited import quality
from nas.export.folder import CONFIG, write_folder
from nas.importing.load import import_model
from nas.linearize import pipeline
from nas.linearize.routes import PROJECTIONS, ROUTES
from nas.linearize.source import Source, read_model
from nas.training.alone import train_alone
from nas.training.settings import OptimizerSettings
from predictors.timing import num_threads
from tests.benchmarks.rows import Row

WORK, RUNS = Path("out/linearize"), Path("studies/results/linearize/runs.jsonl")
PACKAGE, INSIDE = "glassllm", "glassllm/weights/en.npz"
LEARNING = OptimizerSettings(steps=150, batch_size=8, learning_rate=1e-3, warmup_steps=15)
SETTINGS = pipeline.Settings(transfer_steps=60, recovery_steps=60, batch_size=8, window=32)
SEEDS = (0, 1)
NOTHING = "as it was"  # the baseline without a route
PROTOCOL = sha256(repr((PACKAGE, LEARNING, SETTINGS)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """`losses` at each stage of a route; `ratios` of student to teacher latency by length: median, p10, p90."""

    protocol: str
    route: str
    seed: int
    losses: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]


def run() -> list[Row]:
    finished = load()
    for seed in SEEDS:
        for route in (NOTHING, *ROUTES):
            if (route, seed) not in finished:
                with num_threads(1):
                    finished[route, seed] = measured(route, seed)
                with RUNS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(finished[route, seed])) + "\n")
                print(
                    f"{len(finished)} of {len(SEEDS) * (1 + len(ROUTES))}: {route}, seed {seed}", flush=True
                )
    return [r for route in ROUTES for r in (*loss_rows(finished, route), *latency_rows(finished, route))]


def load() -> dict[tuple[str, int], Run]:
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    lines = RUNS.read_text(encoding="utf-8").splitlines() if RUNS.exists() else []
    runs = (Run(**json.loads(line)) for line in lines)
    return {(r.route, r.seed): r for r in runs if r.protocol == PROTOCOL}


@cache
def teacher() -> Source:
    """Return the decoder after training on the plays, a folder that is created once."""
    place, brought_in = WORK / f"teacher-{PROTOCOL}", WORK / "glassllm"
    if not (place / CONFIG).exists():
        package = metadata.distribution(PACKAGE)
        import_model(Path(str(package.locate_file(INSIDE))), brought_in, overwrite=True)
        given = read_model(brought_in)
        validation = given.task.validation(pipeline.EXAMPLES, pipeline.BATCH_SIZE)
        numbers = {"pretrained_loss": quality(given.model, validation)["loss"]}
        start = given.model.requires_grad_(True)
        model = train_alone(start.arch, given.task, LEARNING, start).model
        about = {"task": "plays", "model": str(brought_in.resolve())}
        write_folder(place, model, validation, numbers | quality(model, validation), about)
    return read_model(place)


def measured(route: str, seed: int) -> Run:
    source, settings = teacher(), replace(SETTINGS, seed=seed, lengths=SETTINGS.lengths if seed == 0 else ())
    layers = range(len(source.model.arch.blocks))
    if route != NOTHING:
        done = pipeline.linearize(source, layers, ROUTES[route], settings, lambda step: None)
        return Run(PROTOCOL, route, seed, done.losses, {str(r.length): ratio(r) for r in done.latencies})
    student = deepcopy(source.model)
    pipeline.recover(source, student, layers, PROJECTIONS, settings, lambda step: None)
    validation = source.task.validation(pipeline.EXAMPLES, pipeline.BATCH_SIZE)
    losses = {
        n: quality(m, validation)["loss"] for n, m in (("teacher", source.model), ("recovered", student))
    }
    return Run(PROTOCOL, route, seed, losses, {})


def ratio(found: pipeline.LatencyReport) -> tuple[float, float, float]:
    """Return student over teacher latency, also for the student's p10 and p90. Raises RuntimeError without both."""
    before, after = found.teacher, found.student
    if before is None or after is None:
        raise RuntimeError(f"{found.length} tokens: {found.reason}")
    assert after.p10 is not None
    assert after.p90 is not None
    return after.value / before.value, after.p10 / before.value, after.p90 / before.value


def loss_rows(finished: dict[tuple[str, int], Run], route: str) -> list[Row]:
    alike = [finished[NOTHING, s].losses for s in SEEDS]
    baseline = (
        f"teacher {alike[0]['teacher']:.4f}, recovered alike {fmean(r['recovered'] for r in alike):.4f}"
    )
    rows = []
    for stage in ("copied", "transferred", "recovered"):
        values = [finished[route, s].losses[stage] for s in SEEDS]
        name = f"glassllm by {route}: loss {stage}"
        rows.append(Row(name, fmean(values), min(values), max(values), "nats per token", "", baseline))
    return rows


def latency_rows(finished: dict[tuple[str, int], Run], route: str) -> list[Row]:
    found = finished[route, SEEDS[0]].ratios
    return [
        Row(f"glassllm by {route}: latency, {n} tokens", *found[n], "times the teacher's", "", "1")
        for n in map(str, SETTINGS.lengths)
    ]
