"""Quality by training: every network is trained for the same steps on the same batches, then evaluated.

Networks of a new space start from random weights; those cut from an imported model recover (`nas.training.recovery`).
Each training is kept in a file, so that a network that was trained for a quarter of the steps continues from there,
also in another process or study, and `nas extract` writes the weights that were evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from nas.content import supernet_of, task_of
from nas.errors import ArtifactError
from nas.evaluation.inherited import quality
from nas.home import home
from nas.importing.load import imported
from nas.request.recipe import Recipe
from nas.tasks.base import Batch, Task
from nas.tasks.metric_names import is_own
from nas.tasks.metrics import Metric
from nas.training.alone import Training, calibration_batches, curve
from nas.training.compensation import load_moments
from nas.training.placement import CPU, device_of, device_of_model
from nas.training.recovery import Recovery, recovery_settings
from nas.training.settings import OptimizerSettings
from searchspace.kernels import dispatch
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization.apply import apply_policy, is_calibrated, quantized_parts
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec


@dataclass(frozen=True)
class TrainedQuality:
    """Loss in nats, accuracy and `metrics` after training alone; `train_loss_1`, ... are the learning curve in nats.

    Networks are trained and evaluated on `device`, after `steps` of the steps in `settings`. The learning rate always
    follows the schedule of all steps, so that continuing a shorter training gives the same weights, bit for bit.
    """

    task: Task
    settings: OptimizerSettings
    validation: Sequence[Batch]
    steps: int
    device: torch.device = CPU
    recovery: Recovery | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: Task,
        recipe: Recipe,
        seed: int,
        device: torch.device = CPU,
        recovery: Recovery | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> TrainedQuality:
        """An evaluation after all steps of the recipe's [alone] or, if given, of `recovery`."""
        validation = task.validation(recipe.validation_examples, recipe.batch_size)
        settings = recipe.alone.with_seed(seed) if recovery is None else recovery.settings
        return cls(task, settings, validation, settings.steps, device, recovery, metrics or {})

    def until(self, share: float) -> TrainedQuality:
        """A copy that evaluates after `share` of all steps; 0 means before the first step."""
        return replace(self, steps=max(share > 0, round(share * self.settings.steps)))

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        return self.after(arch, self.steps)

    def after(self, arch: ArchSpec, steps: int) -> dict[str, float]:
        """The values after `steps` steps, read from the training's file if they were computed before."""
        if not steps:
            began = self.with_formats(self._beginning(arch).trained(), arch)
            return quality(began, self.validation, self.metrics)
        kept, told = self._kept(arch)
        prefix = f"{steps}/{arch.id}/"
        known = {name.removeprefix(prefix): v for name, v in told.items() if name.startswith(prefix)}
        if known and known.keys() >= self.metrics.keys() and not any(map(is_own, self.metrics)):
            return known
        training = self._until(arch, kept, steps)
        points = {f"train_loss_{i}": v for i, v in enumerate(curve(training.losses), start=1)}
        values = quality(self.with_formats(training.trained(), arch), self.validation, self.metrics) | points
        kept.save(self.file_of(arch), told | {prefix + name: v for name, v in values.items()})
        return values

    def native(self, arch: ArchSpec, steps: int | None = None) -> Model:
        """The network after `steps` steps (all if None), in native numbers and on the CPU; trained if necessary."""
        kept, told = self._kept(arch)
        done, wanted = len(kept.losses), self.settings.steps if steps is None else steps
        training = self._until(arch, kept, wanted)
        if done < wanted:
            kept.save(self.file_of(arch), told)
        return training.trained().cpu()

    def _until(self, arch: ArchSpec, kept: Training, steps: int) -> Training:
        """The training after `steps` steps: continues `kept`, or restarts if `kept` is already past them."""
        training = kept if len(kept.losses) <= steps else self._beginning(arch)
        training.run(steps)
        return training

    def file_of(self, arch: ArchSpec) -> Path:
        """The file of a network's training; its name is a hash of everything that determines the weights."""
        made_from = Training.identity_of(arch.unquantized, self.task, self.settings, self.recovery)
        key = sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        return home() / "trained" / self.task.content_id / f"{key}.safetensors"

    def with_formats(self, model: Model, arch: ArchSpec) -> Model:
        """`model`, trained in native numbers, with the number formats of `arch`."""
        if arch == arch.unquantized:
            return model
        batches = []
        if any(is_calibrated(part.format) for part in quantized_parts(arch).values()):
            device = device_of_model(model)
            drawn = [b.to(device) for b in calibration_batches(self.task, self.settings.batch_size)]
            batches = [(b.inputs, Tokens(valid=b.valid)) for b in drawn]
        return apply_policy(model, arch, batches)

    def _beginning(self, arch: ArchSpec) -> Training:
        return Training(
            arch.unquantized, self.task, self.settings, device=self.device, recovery=self.recovery
        )

    def _kept(self, arch: ArchSpec) -> tuple[Training, dict[str, float]]:
        """The training in its file and the values stored with it; a new training if the file can't be read."""
        training = self._beginning(arch)
        try:
            return training, training.restored(self.file_of(arch))
        except ArtifactError:
            return self._beginning(arch), {}


def recovery_of(
    recipe: Recipe, space: SpaceSpec, task: Task, supernet: Path, device: torch.device = CPU
) -> Recovery:
    """The recovery of networks cut from the recipe's imported model; `supernet` is the folder of its sorted weights.

    Raises ArtifactError like `imported` and `supernet_of`.
    """
    model = imported(recipe.model)
    settings = recovery_settings(recipe.alone, recipe.recovery_steps)
    store = supernet_of(supernet, space, task)
    found = load_moments(supernet)
    return Recovery(store, model.arch, model.model, task, settings, supernet.name, device, found)


def build(
    space: dict[str, Any], recipe: dict[str, Any], seed: int, device: str = "cpu", kernels: str = "torch"
) -> TrainedQuality:
    """A `TrainedQuality` from JSON, on one thread: the factory that workers call."""
    torch.set_num_threads(1)
    dispatch.select(kernels)
    spec, settings = SpaceSpec.from_json(space), Recipe.from_json(recipe)
    return TrainedQuality.of(task_of(settings, spec), settings, seed, device=device_of(device))
