"""Devices for training and evaluation, and the transfer of batches to them.

On a CPU every loss is read as soon as it is computed. A GPU runs asynchronously and has to be waited for when a number
is read: there losses and gradient norms are read together, every READ_EVERY steps, and a thread draws the next batch
into pinned memory, which is copied while the device computes.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from nas.errors import UsageError
from nas.tasks.base import Batch, Task
from nas.training.settings import OptimizerSettings
from searchspace.model import Model

Part = tuple[Batch, float]

CPU = torch.device("cpu")
READ_EVERY = 16


def device_of(name: str) -> torch.device:
    """The CPU, or for "cuda" the current CUDA device. Raises UsageError if torch finds no CUDA device."""
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use cpu")
    return torch.device("cuda", torch.cuda.current_device())


def device_here(name: str) -> torch.device:
    """The device if this machine has it, else the CPU; for extracting and finishing a network of a study."""
    return device_of(name) if name != "cuda" or torch.cuda.is_available() else CPU


def device_of_model(model: Model) -> torch.device:
    """The device of the model's first tensor; the CPU for a network without tensors."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), CPU)


def is_read_after(step: int, steps: int, device: torch.device) -> bool:
    """Whether losses are read after `step`, counted from 1; equal in every process."""
    return device.type == "cpu" or step % READ_EVERY == 0 or step == steps


class Batches:
    """The training batches of a task, each split into `count` parts, on a device."""

    def __init__(
        self,
        task: Task,
        settings: OptimizerSettings,
        device: torch.device,
        count: int = 1,
        first: int = 0,
        of: int = 1,
    ) -> None:
        """Only the parts whose index is `first` modulo `of` are drawn."""
        self.task, self.settings, self.device = task, settings, device
        self.count, self.first, self.of = count, first, of
        self._pool = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: tuple[int, Future[list[Part]]] | None = None

    def at(self, step: int) -> list[Part]:
        """The parts of the batch of `step`, on the device, each with its share of the batch's counted targets."""
        begun = self._next
        drawn = begun[1].result() if begun is not None and begun[0] == step else self._draw(step)
        if self._pool is not None:
            self._next = step + 1, self._pool.submit(self._draw, step + 1)
        return [(part.to(self.device), weight) for part, weight in drawn]

    def close(self) -> None:
        """End the thread that draws batches."""
        if self._pool is not None:
            self._pool.shutdown()

    def _draw(self, step: int) -> list[Part]:
        whole = self.task.batch(step, self.settings.batch_size, self.settings.seed)
        parts = weighed(whole, self.count)[self.first :: self.of]
        return parts if self._pool is None else [(part.pinned(), weight) for part, weight in parts]


def weighed(batch: Batch, count: int) -> list[Part]:
    """The batch in `count` parts, each with its share of the counted targets."""
    counted = int(batch.counted.sum())
    return [(part, int(part.counted.sum()) / counted) for part in parts_of(batch, count)]


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """The examples of a batch, in order, in `count` batches of nearly equal size."""
    inputs, targets = batch.inputs.tensor_split(count), batch.targets.tensor_split(count)
    valid = [None] * count if batch.valid is None else batch.valid.tensor_split(count)
    return [Batch(*part) for part in zip(inputs, targets, valid, strict=True)]
