"""Linearizes selected layers of a trained network: copies, transfers, recovers, measures and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.distillation import distill
from nas.evaluation.inherited import quality
from nas.export.folder import check_alone, write_folder
from nas.files import replace_folder
from nas.importing.load import copy_tokenizer
from nas.linearize.lora import low_rank
from nas.linearize.routes import Route
from nas.linearize.source import Source
from nas.linearize.transfer import errors, replaced, transfer
from nas.machine import measuring
from nas.setup.preparation import OnStep, Step
from nas.tasks.base import Batch
from nas.training.settings import OptimizerSettings
from predictors.network_bench import measure_networks
from searchspace.model import Model
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload

EXAMPLES, BATCH_SIZE = 256, 64
RECOVERY_RATE = 1e-3  # learning rate of low-rank updates, which start at 0
SECONDS = 15.0  # timing at each length


@dataclass(frozen=True)
class Settings:
    """Steps of both trainings, with batches of `batch_size` examples drawn by `seed`, window and timed lengths."""

    transfer_steps: int = 300
    recovery_steps: int = 300
    batch_size: int = 16
    window: int = 64
    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    seed: int = 0


@dataclass(frozen=True)
class LayerReport:
    """Transfer errors of a layer, and held-out losses in nats of the network with the layers up to it replaced."""

    layer: int
    error_before: float
    error_after: float
    loss_copied: float
    loss_transferred: float


@dataclass(frozen=True)
class LatencyReport:
    """Latencies of a forward pass over `length` tokens; `reason` says why one of them is missing."""

    length: int
    teacher: Measurement | None
    student: Measurement | None
    reason: str = ""


@dataclass(frozen=True)
class Linearized:
    model: Model
    layers: Sequence[LayerReport]
    losses: dict[str, float]
    latencies: Sequence[LatencyReport]


def linearize(
    source: Source, layers: Sequence[int], route: Route, settings: Settings, on_step: OnStep
) -> Linearized:
    """Replace the attention of `layers` and train the replacement; the teacher is not changed."""
    teacher, validation = source.model, source.task.validation(EXAMPLES, BATCH_SIZE)
    student = replaced(teacher, layers, route, settings.window)
    steps, batch_size = settings.transfer_steps, settings.batch_size
    transfer(teacher, student, layers, route, source.task, steps, batch_size, on_step, settings.seed)
    reports = _layers(teacher, student, layers, route, settings.window, validation)
    losses = {
        "teacher": quality(teacher, validation)["loss"],
        "copied": reports[-1].loss_copied,
        "transferred": reports[-1].loss_transferred,
    }
    if settings.recovery_steps:
        recover(source, student, layers, list(route.projections), settings, on_step)
        losses["recovered"] = quality(student, validation)["loss"]
    return Linearized(student, reports, losses, measured(teacher, student, settings.lengths, on_step))


def recover(
    source: Source,
    student: Model,
    layers: Sequence[int],
    projections: Sequence[str],
    settings: Settings,
    on_step: OnStep,
) -> None:
    """Train low-rank updates of the replaced layers' `projections`, on the task and the teacher's outputs."""
    steps, seed = settings.recovery_steps, settings.seed
    optimizer = OptimizerSettings(
        steps, settings.batch_size, RECOVERY_RATE, warmup_steps=steps // 10, seed=seed
    )
    paths = [f"blocks.{i}.mixer.{name}" for i in layers for name in projections]
    with low_rank(student, paths, seed) as updates:
        distill(
            student,
            updates,
            lambda inputs, tokens: source.model(inputs, tokens)[0],
            source.task,
            optimizer,
            on_step,
            name="recovery",
        )


@torch.no_grad()
def _layers(
    teacher: Model,
    student: Model,
    layers: Sequence[int],
    route: Route,
    window: int,
    validation: Sequence[Batch],
) -> list[LayerReport]:
    """A report per layer, with the network's losses as one layer after the other is replaced."""
    copied, fitted = replaced(teacher, layers, route, window), student.state_dict()
    before, after = (errors(teacher, m, layers, route, validation[0]) for m in (copied, student))
    found = []
    for count, layer in enumerate(layers, start=1):
        some = layers[:count]
        losses = [
            quality(replaced(teacher, some, route, window, own), validation)["loss"]
            for own in ((None, fitted) if route.fitted else (None,))
        ]
        found.append(LayerReport(layer, float(before[layer]), float(after[layer]), losses[0], losses[-1]))
    return found


def measured(
    teacher: Model, student: Model, lengths: Sequence[int], on_step: OnStep = lambda step: None
) -> list[LatencyReport]:
    """Latencies of both networks at each length, timed in alternation on one CPU thread."""
    found = []
    for done, length in enumerate(lengths):
        on_step(Step("measuring latency", done, len(lengths), f"{length} tokens"))
        networks = {"teacher": teacher, "student": student}
        with measuring("cpu"):
            measurements, failures = measure_networks(networks, Workload(seq_len=length), seconds=SECONDS)
        by_name = {m.subject: m for m in measurements}
        reason = "; ".join(f"{name}: {why}" for name, why in failures.items())
        found.append(LatencyReport(length, by_name.get("teacher"), by_name.get("student"), reason))
    on_step(Step("measuring latency", len(lengths), len(lengths)))
    return found


def write(source: Source, route: Route, done: Linearized, out: Path, overwrite: bool = False) -> Path:
    """Write the linearized network as a folder that runs alone. Raises ArtifactError if the loss is not reproduced."""
    validation = source.task.validation(EXAMPLES, BATCH_SIZE)
    layers = ", ".join(str(r.layer) for r in done.layers)
    numbers = quality(done.model, validation) | {f"{n}_loss": v for n, v in done.losses.items()}
    measurements = [m for r in done.latencies for m in (r.student,) if m is not None]
    with replace_folder(out, overwrite, sources=source.files) as folder:
        write_folder(folder, done.model, validation, numbers, _about(source, route, layers), measurements)
        if source.imported_from:
            copy_tokenizer(Path(source.imported_from), folder)
        check_alone(folder, numbers["loss"])
    return out


def _about(source: Source, route: Route, layers: str) -> dict[str, Any]:
    return {
        "study": source.name,
        "from": f"layers {layers} linearized by {route.name}",
        "task": source.task.name.removeprefix("masked "),
        "model": source.imported_from,
        "data": source.task.provenance,
        "data_id": source.task.content_id,
        "quality": "attention fitted to the teacher's, then low-rank updates of its projections",
        "sources": {
            "loss": "held-out examples in validation.safetensors",
            "teacher_loss": "the same examples, the network that was linearized",
            "copied_loss": "the same examples, its projections in the new mixers",
            "transferred_loss": "the same examples, after attention transfer",
            "recovered_loss": "the same examples, after recovery",
        },
    }
