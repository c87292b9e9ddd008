"""Quality by training: every network gets the same steps on the same batches, then the held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nas.evaluation.inherited import quality
from nas.setup.content import task_of
from nas.setup.recipe import Recipe
from nas.tasks.base import Batch, Task
from nas.training.alone import calibration_batches, train_alone
from nas.training.settings import OptimizerSettings
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization.apply import apply_policy
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec


@dataclass(frozen=True)
class TrainedQuality:
    """Loss and accuracy after training alone; `train_loss_1`, `train_loss_2`, ... are the learning curve."""

    task: Task
    settings: OptimizerSettings
    validation: Sequence[Batch]

    @classmethod
    def of(cls, task: Task, recipe: Recipe, seed: int, share: float = 1.0) -> TrainedQuality:
        """`share` of the recipe's steps, its warm-up among them."""
        validation = task.validation(recipe.validation_examples, recipe.batch_size)
        whole = recipe.alone.with_seed(seed)
        steps, warmup = (round(share * n) for n in (whole.steps, whole.warmup_steps))
        return cls(task, replace(whole, steps=max(1, steps), warmup_steps=warmup), validation)

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        trained = train_alone(arch.unquantized, self.task, self.settings)
        curve = {f"train_loss_{i}": value for i, value in enumerate(trained.curve, start=1)}
        return self.judged(trained.model, arch) | curve

    def judged(self, model: Model, arch: ArchSpec) -> dict[str, float]:
        """A network that was trained in native numbers, in the formats of `arch`."""
        return quality(self.with_formats(model, arch), self.validation)

    def with_formats(self, model: Model, arch: ArchSpec) -> Model:
        batches = calibration_batches(self.task, self.settings.batch_size)
        return apply_policy(model, arch, [(b.inputs, Tokens(valid=b.valid)) for b in batches])


def build(space: dict[str, Any], recipe: dict[str, Any], seed: int) -> TrainedQuality:
    """From JSON and on one thread: the factory that workers call."""
    torch.set_num_threads(1)
    spec, settings = SpaceSpec.from_json(space), Recipe.from_json(recipe)
    return TrainedQuality.of(task_of(settings, spec), settings, seed)
