"""What a network is trained on and judged by: a split of real data, its batches, the loss and the metric."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs: [B, T] int64 or [B, C, H, W] float32; targets: [B, T] or [B] int64; valid: bool, as targets."""

    inputs: Tensor
    targets: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A split of one data set; tensors stay on the CPU and whoever trains moves the batches.

    `provenance` says what the data is, its version, its licence and how it was split. `train` and `held_out`
    hold the same kinds of tensors: (bytes,) of a text, (images, labels) of a classification.
    """

    kind: ClassVar[str]

    name: str
    provenance: str
    train: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @cached_property
    def content_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of both parts: other data or another split, another id."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.held_out):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    @abstractmethod
    def num_validation_examples(self) -> int:
        """How many examples the held-out part gives."""

    @abstractmethod
    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training examples drawn from (seed, step) alone: a resumed training sees the same batches."""

    @abstractmethod
    def baseline_losses(self) -> dict[str, float]:
        """Losses in nats that a network has to beat to have learned anything, by name."""

    @abstractmethod
    def _validation_batch(self, examples: Indices) -> Batch:
        """The held-out examples with these numbers."""

    def validation(self, num_examples: int | None, batch_size: int) -> list[Batch]:
        """The same at most `num_examples` held-out examples on every call (None: all), spread evenly.

        Every batch is itself spread over the whole held-out part. Sizes differ by at most one, so a mean over
        examples weights each batch by its size.
        """
        if batch_size < 1 or (num_examples is not None and num_examples < 1):
            raise ValueError(
                f"validation needs at least 1 example and batch size 1, got {num_examples=}, {batch_size=}"
            )
        total = self.num_validation_examples
        count = total if num_examples is None else min(num_examples, total)
        chosen = np.arange(count, dtype=np.int64) * total // count
        num_batches = -(-count // batch_size)
        return [self._validation_batch(chosen[first::num_batches]) for first in range(num_batches)]


def draw(seed: int, step: int, population: int, batch_size: int) -> Indices:
    """Numbers below `population`, uniform with replacement: [batch_size]."""
    return np.random.default_rng((seed, step)).integers(0, population, batch_size)


def loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean cross entropy in nats per valid target, in float32. logits: [..., C]; targets, valid: [...]."""
    logits, targets = _counted(logits, targets, valid)
    return F.cross_entropy(logits.float(), targets)


def accuracy(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """The share of valid targets with the largest logit. logits: [..., C]; targets, valid: [...]."""
    logits, targets = _counted(logits, targets, valid)
    return (logits.argmax(-1) == targets).float().mean()


def _counted(logits: Tensor, targets: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Only the valid positions, flat: [N, C] and [N]."""
    if valid is None:
        return logits.flatten(0, -2), targets.flatten()
    return logits[valid], targets[valid]
