"""An imported model as a supernet: its own weights, the most important heads and units first.

Nothing has to be trained to search it; with recovery steps the sub-networks are trained together by the sandwich rule,
with the whole model as their teacher.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.tasks.base import Task
from nas.training.checkpoint import (
    CHECKPOINT,
    SUPERNET,
    TrainingState,
    identity,
    save_checkpoint,
    save_supernet,
)
from nas.training.placement import CPU
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import Progress, train_supernet
from searchspace.kernels import dispatch
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.primitives.context import Tokens
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.importance import ordered, saliency
from searchspace.supernet.slicing import take
from searchspace.supernet.supernet import Supernet, declarations

CALIBRATION_BATCHES, CALIBRATION_SIZE = 16, 16
RECOVERY_RATE = 3e-4


def recovery_settings(settings: TrainingSettings, steps: int) -> TrainingSettings:
    """At a rate for weights that are good already, warmed up over a tenth of the steps."""
    steps = max(1, steps)
    return replace(settings, steps=steps, learning_rate=RECOVERY_RATE, warmup_steps=max(1, steps // 10))


def store_key(space: SpaceSpec, task: Task, settings: TrainingSettings, model: Imported, steps: int) -> str:
    """Content id: 16 hexadecimal digits of the SHA-256 of what the supernet is made from."""
    made_from = identity(space, task, recovery_settings(settings, steps))
    made_from |= {"model": model.sha256, "arch": model.arch.id, "recovery": steps}
    canonical = json.dumps(made_from, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def make_store(
    space: SpaceSpec,
    task: Task,
    settings: TrainingSettings,
    model: Imported,
    steps: int,
    folder: Path,
    on_progress: Callable[[Progress], None] | None = None,
    device: torch.device = CPU,
) -> None:
    """Write the supernet of `model` to `folder`, where it is not there yet; its steps are computed on `device`.

    Raises UsageError where the space has no place for a tensor of the model.
    """
    settings = recovery_settings(settings, steps)
    if (folder / SUPERNET).exists():
        return
    if not (folder / CHECKPOINT).exists():
        with dispatch.use("torch"):  # it is taken apart on the CPU
            supernet = pretrained_supernet(space, task, model)
        if not steps:
            save_supernet(folder, supernet, task, settings, {})
            return
        # a training that stands at step 0, and whose largest network has something to teach from there on
        state = TrainingState(switch_step=None if task.kind == "embedding" else 0)
        save_checkpoint(folder, identity(space, task, settings), state, supernet.tensors, {})
    train_supernet(space, task, settings, folder, on_progress, device)


def pretrained_supernet(space: SpaceSpec, task: Task, model: Imported) -> Supernet:
    """The store whose tensors are the model's in order of importance; what only the space has starts at random."""
    whole = model.model()
    outputs = int(model.arch.head.get("vocab_size", 1))
    batches = [
        part for i in range(CALIBRATION_BATCHES) for part in task.batch(i, CALIBRATION_SIZE, 0).parts(outputs)
    ]
    importance = saliency(whole, [(b.inputs, Tokens(valid=b.valid)) for b in batches])
    return filled(space, whole, ordered(whole, importance, in_place=True))


@torch.no_grad()
def filled(space: SpaceSpec, model: Model, tensors: dict[str, torch.Tensor]) -> Supernet:
    """The store that keeps the tensors of a model; of a wider model a prefix of each axis."""
    places = declarations(space)
    found = {}
    for name, declared in declared_tensors(model):
        place = places.get(name)
        if place is None or place.names != declared.names:
            raise UsageError(
                f"--model: its tensor {name} has no place in space {space.name}; "
                f"take the space.toml of its folder and narrow it"
            )
        try:
            found[name] = take(tensors[name], declared.axes, place.axes).contiguous()
        except RuntimeError:
            found[name] = tensors[name][:0]
        if found[name].shape != place.shape:
            raise UsageError(
                f"--model: its tensor {name} is {declared.shape}, space {space.name} wants {place.shape}"
            )
    return Supernet(space, tensors=found)
