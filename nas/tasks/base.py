"""Tasks: a data set split into training and held-out parts, its batches, the loss and the accuracy."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
_TRIVIAL = {
    "bigram": "a table of byte pairs",
    "class_prior": "the frequencies of the classes",
    "unigram": "the frequencies of single tokens",
}
MOST_LOGITS = 2**24  # in memory at once during an evaluation, where a large vocabulary's logits dominate
IGNORED = -100  # a target that is not predicted; torch's default ignore_index of cross entropy


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs: [B, T] int64 or [B, C, H, W] float32; targets: [B, T] or [B] int64; valid: bool, shaped like targets.

    `valid` is False at padding; a real token that is not predicted has the target IGNORED. Embedding targets are
    vectors [B, D] or [B, T, D] float32; for these, and for one target per text [B], valid is [B, T]. `labels`, if
    given, are compared with outputs by metrics in place of the targets.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor | None = None
    labels: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """True at targets that are neither padding nor IGNORED: bool [B] or [B, T], one value per target or vector."""
        if self.targets.is_floating_point():
            each = torch.ones(self.targets.shape[:-1], dtype=torch.bool, device=self.targets.device)
            return each if self.valid is None or self.targets.dim() == 2 else self.valid
        return _without_padding(self.targets, self.valid) != IGNORED

    @cached_property
    def rows(self) -> Tensor | None:
        """Indices [n] int64 of the counted targets in the flattened targets; None if all are counted.

        A batch on a GPU copies them from its CPU batch, because computing them there would wait for the device.
        """
        counted = self.counted
        return None if bool(counted.all()) else counted.flatten().nonzero().squeeze(1)

    def parts(self, num_outputs: int) -> list[Batch]:
        """Split the batch so that each part has at most MOST_LOGITS logits, but at least one example.

        `num_outputs` is the number of logits per target. A batch with vectors as targets, or with labels (which belong
        to several rows together), is not split.
        """
        if self.targets.is_floating_point() or self.labels is not None:
            return [self]
        rows = max(1, MOST_LOGITS // (num_outputs * max(1, self.targets[0].numel())))
        if rows >= len(self.inputs):
            return [self]
        cuts = [slice(start, start + rows) for start in range(0, len(self.inputs), rows)]
        return [
            Batch(self.inputs[c], self.targets[c], None if self.valid is None else self.valid[c])
            for c in cuts
        ]

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, copied without waiting; itself if it is there already."""
        return self if self.inputs.device == device else self._each(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in pinned memory, which a CUDA device can copy asynchronously."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = (self.inputs, self.targets, self.valid, self.labels, self.rows)
        changed = [None if t is None else change(t) for t in parts]
        made = Batch(*changed[:4])  # type: ignore[arg-type]
        vars(made)["rows"] = changed[4]
        return made


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A split of one data set; its tensors stay on the CPU, and training code moves the batches.

    `provenance` describes the data, its version, its licence and its split. `train` and `held_out` are tuples of the
    same kinds of tensors: (bytes,) for text, (images, labels) for classification.
    """

    kind: ClassVar[str]

    name: str
    provenance: str
    train: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]

    @cached_property
    def content_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of both parts; it changes with the data and with the split."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.held_out):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    @abstractmethod
    def num_validation_examples(self) -> int:
        """The number of held-out examples."""

    @abstractmethod
    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training examples that depend only on (seed, step), so that a resumed training sees the same batches."""

    @abstractmethod
    def baseline_losses(self) -> dict[str, float]:
        """Losses of trivial predictions in nats, by name; a network that learned something has a lower one."""

    def trivial_baseline(self) -> tuple[str, float] | None:
        """(description, loss in nats) of the best trivial prediction; None if the task has none."""
        losses = self.baseline_losses()
        for name, words in _TRIVIAL.items():
            if name in losses and not (name == "bigram" and self.kind != "causal_lm"):
                return words, losses[name]
        return None

    @abstractmethod
    def _validation_batch(self, examples: Indices) -> Batch:
        """The held-out examples at the indices `examples` [B]."""

    def validation(self, num_examples: int | None, batch_size: int) -> list[Batch]:
        """At most `num_examples` held-out examples (None: all), evenly spread and the same on every call.

        Every batch is itself spread over the whole held-out part. Batch sizes differ by at most one, so a mean over
        examples must weight each batch by its size. Raises ValueError if a number is less than 1.
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
    """Indices [batch_size] below `population`, uniform with replacement, determined by (seed, step)."""
    return np.random.default_rng((seed, step)).integers(0, population, batch_size)


def loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
    """Scalar mean cross entropy in nats per counted target, in float32; logits: [B, T, C] or [B, C].

    targets, valid: see Batch. For vectors [B, T, C] or [B, C] as targets, the mean of 1 - cosine. `rows` are
    Batch.rows, computed if not given.
    """
    if targets.is_floating_point():
        ours, theirs = _vectors(logits, targets, valid, rows)
        return (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean()
    wanted = _without_padding(targets, valid)
    return F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten(), ignore_index=IGNORED)


def accuracy(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scalar share of counted targets with the largest logit; logits: [B, T, C] or [B, C]; targets, valid: see Batch.

    For vectors as targets, the share of outputs whose closest vector, by cosine, is their own target.
    """
    if targets.is_floating_point():
        ours, theirs = (F.normalize(t, dim=-1) for t in _vectors(logits, targets, valid))
        own = torch.arange(len(ours), device=ours.device)
        return ((ours @ theirs.T).argmax(-1) == own).float().mean()
    wanted = _without_padding(targets, valid)
    return (logits.argmax(-1) == wanted).sum() / (wanted != IGNORED).sum()


def _vectors(
    outputs: Tensor, targets: Tensor, valid: Tensor | None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both [N, D] in float32, without padding."""
    ours, theirs = outputs.flatten(0, -2), targets.flatten(0, -2)
    if rows is None:
        rows = Batch(outputs, targets, valid).rows
    return (ours.float(), theirs.float()) if rows is None else (ours[rows].float(), theirs[rows].float())


def _without_padding(targets: Tensor, valid: Tensor | None) -> Tensor:
    """The targets with IGNORED at padding; one target per sequence [B] has no padding."""
    return targets if valid is None or targets.dim() < valid.dim() else targets.where(valid, IGNORED)
