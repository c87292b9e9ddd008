"""An imported model as a supernet: its own weights, sorted so that the most important heads and units come first.

The supernet needs no training if each evaluated network recovers on its own. If quality is measured with inherited
weights, recovery steps train the sub-networks jointly by the sandwich rule, with the whole model as teacher.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.setup.fitting import flops_of_example
from nas.tasks.base import Task
from nas.training.checkpoint import (
    CHECKPOINT,
    SUPERNET,
    TrainingState,
    identity,
    save_checkpoint,
    save_supernet,
)
from nas.training.compensation import MOST_TOKENS, Moments, moments, save_moments
from nas.training.placement import CPU
from nas.training.recovery import recovery_settings
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import Progress, train_supernet
from searchspace.kernels import dispatch
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.importance import CHANNELS, ordered, saliency
from searchspace.supernet.slicing import take
from searchspace.supernet.supernet import Supernet, declarations

CalibrationBatch = tuple[torch.Tensor, Tokens]
CALIBRATION_BATCHES, CALIBRATION_SIZE = 16, 16
CALIBRATION_FLOPS, FEWEST_BATCHES = 3e12, 2
HELD = 4  # numbers in memory for each logit: itself, its probability, the cumulative sum, the gradient


def store_key(space: SpaceSpec, task: Task, settings: TrainingSettings, model: Imported, steps: int) -> str:
    """Content id of the supernet: 16 hexadecimal digits of the SHA-256 of its inputs and settings."""
    made_from = identity(space, task, recovery_settings(settings, steps))
    made_from |= {"model": model.sha256, "arch": model.arch.id, "recovery": steps}
    made_from |= {} if steps else {"moments": MOST_TOKENS}
    count = calibration_batches(model.arch, task)
    made_from |= {} if count == CALIBRATION_BATCHES else {"batches": count}
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
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the supernet of `model` to `folder` unless it exists; recovery `steps` run on `device`.

    `on_batch(done, total)` reports the calibration batches that measure importance, `on_progress` the recovery steps.
    Raises UsageError if a tensor of the model has no counterpart in the space.
    """
    settings = recovery_settings(settings, steps)
    if (folder / SUPERNET).exists():
        return
    if not (folder / CHECKPOINT).exists():
        batches = calibration(model.arch, task)

        def reported() -> Iterator[CalibrationBatch]:
            for i, batch in enumerate(batches):
                on_batch(i, len(batches))
                yield batch

        with dispatch.use("torch"):  # importance is measured on the CPU
            supernet = pretrained_supernet(space, task, model, reported())
            if not steps:
                save_moments(folder, _moments(supernet, model.arch, batches))
                save_supernet(folder, supernet, task, settings, {})
                return
        # a training at step 0 whose largest network is already a useful teacher
        state = TrainingState(switch_step=None if task.kind == "embedding" else 0)
        save_checkpoint(folder, identity(space, task, settings), state, supernet.tensors, {})
    train_supernet(space, task, settings, folder, on_progress, device)


def calibration_batches(whole: ArchSpec, task: Task) -> int:
    """Number of calibration batches: CALIBRATION_BATCHES, or fewer (at least FEWEST_BATCHES) for a large model."""
    batch = 3 * CALIBRATION_SIZE * flops_of_example(whole, task)  # forward and back
    return max(FEWEST_BATCHES, min(CALIBRATION_BATCHES, int(CALIBRATION_FLOPS / batch)))


def calibration(whole: ArchSpec, task: Task) -> list[CalibrationBatch]:
    """Training data for measuring importance, split so that the logits of each part fit in memory.

    Each element has inputs `[B, T]` (images `[B, C, H, W]`) and their `Tokens`.
    """
    outputs = int(whole.head.get("vocab_size", 1))
    drawn = (task.batch(i, CALIBRATION_SIZE, 0) for i in range(calibration_batches(whole, task)))
    return [(b.inputs, Tokens(valid=b.valid)) for batch in drawn for b in batch.parts(HELD * outputs)]


def pretrained_supernet(
    space: SpaceSpec, task: Task, model: Imported, batches: Iterable[CalibrationBatch] | None = None
) -> Supernet:
    """The supernet whose tensors are the model's, sorted by importance; tensors only the space has start at random.

    Raises UsageError if a tensor of the model has no counterpart in the space, or if networks of the space would
    produce embeddings of another width than the model's.
    """
    whole = model.model()
    importance = saliency(whole, calibration(model.arch, task) if batches is None else batches)
    if set(space.d_model.values) == {model.arch.d_model}:
        importance.pop(CHANNELS, None)
    elif model.arch.head.op == "embedding" and not model.arch.head.get("width"):
        raise UsageError(
            f"--space {space.name}: its networks would embed in {', '.join(map(str, space.d_model.values))} numbers, "
            f"the model in {model.arch.d_model}; offer d_model = {model.arch.d_model} alone"
        )
    return filled(space, whole, ordered(whole, importance, in_place=True))


def _moments(supernet: Supernet, whole: ArchSpec, batches: Sequence[CalibrationBatch]) -> Moments:
    """Moments of the whole model's inputs in the supernet's order; empty if the model is no network of the space."""
    try:
        return moments(supernet.extract(whole, copy=False), batches)
    except ValueError:
        return {}


@torch.no_grad()
def filled(space: SpaceSpec, model: Model, tensors: dict[str, torch.Tensor]) -> Supernet:
    """The supernet with the tensors of `model`, by name; of an axis longer than the space's it keeps a prefix.

    `tensors` have the shapes that `declared_tensors(model)` states. Raises UsageError if one has no counterpart of
    that shape in the space.
    """
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
