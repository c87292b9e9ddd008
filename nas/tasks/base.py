"""What a network is trained on and judged by: a split of real data, its batches, the loss and the metric."""

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
MOST_LOGITS = 2**24  # that a judgement holds at once: those of a large vocabulary are most of its memory
IGNORED = -100  # a target that is not predicted; what cross entropy leaves out in torch


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs: [B, T] int64 or [B, C, H, W] float32; targets: [B, T] or [B] int64; valid: bool, as targets.

    `valid` is False at padding; a real token that is not predicted has the target IGNORED. Targets that are vectors to
    come close to are [B, D] or [B, T, D] float32; then, and where each text has one target [B], valid is [B, T].
    `labels` are what metrics compare with where that is something else than the targets.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor | None = None
    labels: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """True at targets that are neither padding nor IGNORED; bool, as targets. Of vectors, one for each."""
        if self.targets.is_floating_point():
            each = torch.ones(self.targets.shape[:-1], dtype=torch.bool, device=self.targets.device)
            return each if self.valid is None or self.targets.dim() == 2 else self.valid
        return _without_padding(self.targets, self.valid) != IGNORED

    @cached_property
    def rows(self) -> Tensor | None:
        """The numbers of the counted targets, [n] int64, all of them counted from 0; None where each one is counted.

        A batch on a device has those of the batch that it is made from: there their number would be waited for.
        """
        counted = self.counted
        return None if bool(counted.all()) else counted.flatten().nonzero().squeeze(1)

    def parts(self, num_outputs: int) -> list[Batch]:
        """Parts of which each has at most MOST_LOGITS logits, `num_outputs` at each place, and at least one sequence.

        The whole where its targets are vectors or it has labels of its own, which are of all its rows together.
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
        """The same on a device, without waiting for the copies; itself where it is there already."""
        return self if self.inputs.device == device else self._each(lambda t: t.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in memory of this machine that a CUDA device can copy by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = (self.inputs, self.targets, self.valid, self.labels, self.rows)
        changed = [None if t is None else change(t) for t in parts]
        made = Batch(*changed[:4])  # type: ignore[arg-type]
        vars(made)["rows"] = changed[4]
        return made


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

    def trivial_baseline(self) -> tuple[str, float] | None:
        """What the best of the trivial answers is, in words, and its loss in nats; None where there is none."""
        losses = self.baseline_losses()
        for name, words in _TRIVIAL.items():
            if name in losses and not (name == "bigram" and self.kind != "causal_lm"):
                return words, losses[name]
        return None

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


def loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
    """Mean cross entropy in nats per counted target, in float32. logits: [..., C]; targets: [...]; valid: as in Batch.

    Where the targets are vectors [..., C]: the mean of 1 - cosine. `rows` are Batch.rows, looked for where not given.
    """
    if targets.is_floating_point():
        ours, theirs = _vectors(logits, targets, valid, rows)
        return (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean()
    wanted = _without_padding(targets, valid)
    return F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten(), ignore_index=IGNORED)


def accuracy(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """The share of counted targets with the largest logit. logits: [..., C]; targets, valid: [...].

    Where the targets are vectors [..., C]: the share of outputs to which none of them is closer than their own.
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
    """Targets of whole sequences [B] have none."""
    return targets if valid is None or targets.dim() < valid.dim() else targets.where(valid, IGNORED)
