"""Quality by training: every network gets the same steps on the same batches, then the held-out data.

A network of a new space begins with random weights; one cut out of an imported model recovers, see training/recovery.

A training is kept in a file of its own, so a network that was trained for a quarter goes on from there, in another
process or study too, and what was trained is what `nas extract` hands over.
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
    """Loss, accuracy and `metrics` after training alone; `train_loss_1`, `train_loss_2`, ... are the learning curve.

    Networks are trained and judged on `device`.

    `steps` of the settings' steps are done before it judges. The learning rate follows the whole schedule, so that a
    training goes on where a shorter one ended, bit for bit as if it had never paused.
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
        """Judges after all of the recipe's steps, or of the recovery's."""
        validation = task.validation(recipe.validation_examples, recipe.batch_size)
        settings = recipe.alone.with_seed(seed) if recovery is None else recovery.settings
        return cls(task, settings, validation, settings.steps, device, recovery, metrics or {})

    def until(self, share: float) -> TrainedQuality:
        """Judges after `share` of the steps, 0 is before the first."""
        return replace(self, steps=max(share > 0, round(share * self.settings.steps)))

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        return self.after(arch, self.steps)

    def after(self, arch: ArchSpec, steps: int) -> dict[str, float]:
        """The values after `steps` steps, known from before where this network was trained so far already."""
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
        """The network after `steps` steps (all of them where None), in native numbers; trained where it was not yet.

        It is on the CPU, whatever it was trained on.
        """
        kept, told = self._kept(arch)
        done, wanted = len(kept.losses), self.settings.steps if steps is None else steps
        training = self._until(arch, kept, wanted)
        if done < wanted:
            kept.save(self.file_of(arch), told)
        return training.trained().cpu()

    def _until(self, arch: ArchSpec, kept: Training, steps: int) -> Training:
        """The training after `steps` steps: `kept` itself, or one from the beginning where that is past them."""
        training = kept if len(kept.losses) <= steps else self._beginning(arch)
        training.run(steps)
        return training

    def file_of(self, arch: ArchSpec) -> Path:
        """Where the training of a network is kept: named by all that decides its weights."""
        made_from = Training.identity_of(arch.unquantized, self.task, self.settings, self.recovery)
        key = sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        return home() / "trained" / self.task.content_id / f"{key}.safetensors"

    def with_formats(self, model: Model, arch: ArchSpec) -> Model:
        """A network that was trained in native numbers, in the formats of `arch`."""
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
        """The training as far as it is; from its beginning where its file can't be read."""
        training = self._beginning(arch)
        try:
            return training, training.restored(self.file_of(arch))
        except ArtifactError:
            return self._beginning(arch), {}


def recovery_of(
    recipe: Recipe, space: SpaceSpec, task: Task, supernet: Path, device: torch.device = CPU
) -> Recovery:
    """How the networks of a study inside an imported model recover; `supernet` is the folder of its weights.

    Raises ArtifactError as `imported` and `supernet_of` do.
    """
    model = imported(recipe.model)
    settings = recovery_settings(recipe.alone, recipe.recovery_steps)
    store = supernet_of(supernet, space, task)
    found = load_moments(supernet)
    return Recovery(store, model.arch, model.model, task, settings, supernet.name, device, found)


def build(
    space: dict[str, Any], recipe: dict[str, Any], seed: int, device: str = "cpu", kernels: str = "torch"
) -> TrainedQuality:
    """From JSON and on one thread: the factory that workers call."""
    torch.set_num_threads(1)
    dispatch.select(kernels)
    spec, settings = SpaceSpec.from_json(space), Recipe.from_json(recipe)
    return TrainedQuality.of(task_of(settings, spec), settings, seed, device=device_of(device))
