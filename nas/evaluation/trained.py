"""Quality by training: every network gets the same steps on the same batches, then the held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nas.evaluation.inherited import quality
from nas.recipe import Recipe
from nas.tasks.base import Batch, Task
from nas.tasks.load import load_task
from nas.training.alone import train_alone
from nas.training.settings import OptimizerSettings
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec


@dataclass(frozen=True)
class TrainedQuality:
    """Loss and accuracy after training alone; `train_loss_1`, `train_loss_2`, ... are the learning curve."""

    task: Task
    settings: OptimizerSettings
    validation: Sequence[Batch]

    @classmethod
    def of(cls, task: Task, recipe: Recipe, seed: int) -> TrainedQuality:
        validation = task.validation(recipe.validation_examples, recipe.batch_size)
        return cls(task, recipe.alone.with_seed(seed), validation)

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        trained = train_alone(arch, self.task, self.settings)
        curve = {f"train_loss_{i}": value for i, value in enumerate(trained.curve, start=1)}
        return quality(trained.model, self.validation) | curve


def build(space: dict[str, Any], recipe: dict[str, Any], seed: int) -> TrainedQuality:
    """From JSON and on one thread: the factory that workers call."""
    torch.set_num_threads(1)
    spec, settings = SpaceSpec.from_json(space), Recipe.from_json(recipe)
    task = load_task(settings.data or spec.data, stem=spec.stem, head=spec.head)
    return TrainedQuality.of(task, settings, seed)
