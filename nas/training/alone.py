"""Training one network by itself: from random weights it gives the quality that every cheaper judgement stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from nas.tasks.base import Batch, Task, loss
from nas.training.settings import OptimizerSettings
from nas.training.supernet_trainer import TrainingDiverged, adamw, autocast, learning_rate
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.recalibration import calibrate, set_statistics
from searchspace.spec.arch import ArchSpec

CURVE_POINTS = 8
CALIBRATED_AFTER = (
    4  # a quarter of the steps: keys mean something by then, and the weights have time to follow the codes
)
RECALIBRATION_BATCHES, RECALIBRATION_SEED = 4, 1


@dataclass(frozen=True)
class TrainedAlone:
    """`curve` holds the mean training loss of each CURVE_POINTS-th part of the steps, in nats."""

    model: Model
    curve: tuple[float, ...]


def train_alone(
    arch: ArchSpec, task: Task, settings: OptimizerSettings, start: Model | None = None
) -> TrainedAlone:
    """Weights and batches follow from the settings' seed; with `start` it is that model, which is changed.

    Raises TrainingDiverged where a loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = (start or Model(arch)).train()
    tensors = list(model.parameters())
    optimizer = adamw(tensors, settings)
    calibration = [b.inputs for b in calibration_batches(task, settings.batch_size)]
    losses = []
    for step in range(settings.steps):
        if step == settings.steps // CALIBRATED_AFTER:
            calibrate(model, calibration)
        batch = task.batch(step, settings.batch_size, settings.seed)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        tokens = Tokens(valid=batch.valid, progress=step / settings.steps)
        with autocast(settings):
            logits = model(batch.inputs, tokens)[0]
        value = loss(logits, batch.targets, batch.valid)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise TrainingDiverged(
                f"step {step + 1}: the loss of architecture {arch.id} is {losses[-1]}; "
                f"train with a learning rate smaller than {settings.learning_rate}"
            )
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tensors, settings.grad_clip)
        optimizer.step()
    model.eval()
    set_statistics(model, calibration)
    return TrainedAlone(model, _curve(losses))


def calibration_batches(task: Task, batch_size: int) -> list[Batch]:
    """What statistics are measured on after training, the same for every network."""
    return [task.batch(i, batch_size, RECALIBRATION_SEED) for i in range(RECALIBRATION_BATCHES)]


def _curve(losses: Sequence[float]) -> tuple[float, ...]:
    """The mean of each of CURVE_POINTS parts, as equal as can be."""
    points = min(CURVE_POINTS, len(losses))
    edges = [round(i * len(losses) / points) for i in range(points + 1)]
    return tuple(sum(losses[a:b]) / (b - a) for a, b in pairwise(edges))
