"""Quality with inherited weights: extracts a sub-network from the supernet and evaluates it on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from nas.tasks.base import Batch, Task, accuracy, loss
from nas.tasks.metrics import Metric
from nas.training.alone import calibration_batches
from nas.training.placement import device_of_model
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization.apply import apply_policy
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.spec.arch import ArchSpec
from searchspace.supernet.supernet import Supernet


@dataclass
class InheritedQuality:
    """Loss in nats, accuracy and `metrics` on fixed held-out batches, on the device of supernet and batches.

    Batch norm statistics of a network are recalibrated first.
    """

    supernet: Supernet
    task: Task
    validation: Sequence[Batch]
    calibration: Sequence[Batch]
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        task: Task,
        num_examples: int,
        batch_size: int,
        metrics: Mapping[str, Metric] | None = None,
    ) -> InheritedQuality:
        """An evaluation on the supernet's device, of `num_examples` held-out examples."""
        made = cls(supernet, task, (), (), metrics or {})
        made.validation = [b.to(made.device) for b in task.validation(num_examples, batch_size)]
        made.calibration = [b.to(made.device) for b in calibration_batches(task, batch_size)]
        return made

    @property
    def device(self) -> torch.device:
        return next(iter(self.supernet.tensors.values())).device

    def network(self, arch: ArchSpec, copy: bool = False) -> Model:
        """The sub-network with the number formats of `arch`; with `copy` it owns its weights."""
        return self.with_formats(self.native(arch, copy), arch)

    def native(self, arch: ArchSpec, copy: bool = False) -> Model:
        """The sub-network in native numbers, with recalibrated statistics; with `copy` it owns its weights."""
        model = self.supernet.extract(arch, copy)
        if needs_recalibration(model):
            model = self.supernet.extract(arch, copy=True) if not copy else model
            recalibrate(model, [batch.inputs for batch in self.calibration])
        return model

    def with_formats(self, model: Model, arch: ArchSpec) -> Model:
        """`model` with the number formats of `arch`, which are calibrated on the calibration batches."""
        return apply_policy(model, arch, [(b.inputs, Tokens(valid=b.valid)) for b in self.calibration])

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        return quality(self.network(arch), self.validation, self.metrics)


@torch.inference_mode()
def quality(
    model: Model, validation: Sequence[Batch], metrics: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Mean loss in nats and accuracy over the batches, weighted by their targets, and the value of each metric.

    Batches are moved to the device of the model.
    """
    running = {name: metric.begun() for name, metric in (metrics or {}).items()}
    device = device_of_model(model)
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    outputs = int(model.arch.head.get("vocab_size", 1))
    for batch in (part for whole in validation for part in whole.parts(outputs)):
        there = batch.to(device)
        logits = model.decoded(there.inputs, Tokens(valid=there.valid))
        weight = there.counted.sum().double()
        found = (
            loss(logits, there.targets, there.valid, there.rows),
            accuracy(logits, there.targets, there.valid),
        )
        for metric in running.values():
            metric.add(there, logits)
        totals += torch.stack([*(weight * value.double() for value in found), weight])
    total_loss, total_right, count = totals.tolist()
    measured = {name: metric.value() for name, metric in running.items()}
    return {"loss": total_loss / count, "accuracy": total_right / count} | measured
