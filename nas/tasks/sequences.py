"""Tasks on separate, padded texts: a pretrained encoder's own outputs, labels, pairs or completions.

A sub-network of an embedding model is evaluated by the distance of its embeddings to the whole model's; one of a
classifier by labels or, without labels, by its agreement with the whole model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nas.tasks.base import IGNORED, Batch, Indices, Task, draw, loss
from searchspace.model import Model
from searchspace.primitives.context import Tokens

BASELINE_TEXTS = 256


@dataclass(frozen=True, eq=False)
class SequenceTask(Task):
    """`train` and `held_out` are (tokens [N, T] int32, lengths [N], and labels if there are any).

    Both are sorted by length, and a batch is a run of neighbours, to keep padding small.
    """

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[0])

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        (start,) = draw(seed, step, max(1, len(self.train[0]) - batch_size + 1), 1)
        return self._examples(self.train, np.arange(start, min(start + batch_size, len(self.train[0]))))

    def validation(self, num_examples: int | None, batch_size: int) -> list[Batch]:
        total = self.num_validation_examples
        count = total if num_examples is None else min(num_examples, total)
        chosen = np.arange(count, dtype=np.int64) * total // count
        parts: list[Indices] = np.array_split(chosen, -(-count // batch_size))
        return [self._validation_batch(part) for part in parts]

    def _validation_batch(self, examples: Indices) -> Batch:
        return self._examples(self.held_out, examples)

    def _examples(self, part: tuple[Tensor, ...], examples: Indices) -> Batch:
        """A batch with inputs [B, T] int64, targets of `_targets` and valid [B, T]."""
        rows, lengths, *labels = (tensor[torch.from_numpy(examples)] for tensor in part)
        inputs = rows[:, : int(lengths.max())].long()
        valid = torch.arange(inputs.shape[1]) < lengths[:, None]
        return Batch(inputs, self._targets(inputs, valid, labels), valid)

    @abstractmethod
    def _targets(self, inputs: Tensor, valid: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """The targets for inputs [B, T] with valid [B, T] and the labels of the batch."""


@dataclass(frozen=True, eq=False)
class EmbeddingTask(SequenceTask):
    """Approximate the embeddings of `teacher`: [B, D], or [B, T, D] for a model that does not pool."""

    kind: ClassVar[str] = "embedding"

    teacher: Model

    @torch.no_grad()
    def _targets(self, inputs: Tensor, valid: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """The teacher's embeddings [B, D] or [B, T, D], on its device."""
        device = next(self.teacher.parameters()).device
        found: Tensor = self.teacher(inputs.to(device), Tokens(valid=valid.to(device)))[0]
        return found

    def baseline_losses(self) -> dict[str, float]:
        """another_text: mean 1 - cosine between the embeddings of different texts."""
        (batch,) = self.validation(BASELINE_TEXTS, BASELINE_TEXTS)
        return {"another_text": float(loss(batch.targets.roll(1, 0), batch.targets, batch.valid))}


@dataclass(frozen=True, eq=False)
class PairTask(EmbeddingTask):
    """Approximate the embeddings of `teacher`, on pairs of texts with a score each.

    `train` is (tokens [N, T] int32, lengths [N]) of all texts; `held_out` is (tokens [2 P, T] int32, lengths [2 P],
    scores [P] float32), each text followed by its partner. A held-out batch has its scores as `labels`.
    """

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[2])

    def _validation_batch(self, examples: Indices) -> Batch:
        rows, lengths, scores = self.held_out
        both = np.stack([2 * examples, 2 * examples + 1], axis=1).flatten()
        batch = self._examples((rows, lengths), both)
        return replace(batch, labels=scores[torch.from_numpy(examples)])


@dataclass(frozen=True, eq=False)
class CompletionTask(SequenceTask):
    """Predict each token of a completion from the prompt and the previous tokens.

    Both parts are (tokens [N, T] int32, lengths [N], lengths of the prompts [N]).
    """

    kind: ClassVar[str] = "causal_lm"

    def _targets(self, inputs: Tensor, valid: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """Next tokens [B, T], IGNORED where the next token belongs to the prompt or is padding."""
        (prompts,) = labels
        following = F.pad(inputs[:, 1:], (0, 1), value=0)
        place = torch.arange(1, inputs.shape[1] + 1)
        is_predicted = F.pad(valid[:, 1:], (0, 1)) & (place >= prompts[:, None])
        return following.where(is_predicted, IGNORED)

    def baseline_losses(self) -> dict[str, float]:
        """unigram: cross entropy in nats of held-out completions under the token frequencies of training ones."""
        seen, kept = (self._completions(part) for part in (self.train, self.held_out))
        return {"unigram": class_prior(seen, kept, int(max(seen.max(), kept.max())) + 1)}

    @staticmethod
    def _completions(part: tuple[Tensor, ...]) -> Tensor:
        """The predicted tokens [n] int64 of all completions."""
        tokens, lengths, prompts = part
        place = torch.arange(tokens.shape[1])
        return tokens[(place >= prompts.clamp(min=1)[:, None]) & (place < lengths[:, None])].long()


@dataclass(frozen=True, eq=False)
class AgreementTask(SequenceTask):
    """Predict the class that `teacher` predicts: [B], or [B, T] for a model that classifies tokens."""

    kind: ClassVar[str] = "classification"

    num_classes: int
    teacher: Model

    @torch.no_grad()
    def _targets(self, inputs: Tensor, valid: Tensor, labels: Sequence[Tensor]) -> Tensor:
        found: Tensor = self.teacher(inputs, Tokens(valid=valid))[0].argmax(-1)
        return found

    def baseline_losses(self) -> dict[str, float]:
        """class_prior: entropy in nats of the teacher's predicted classes on some held-out texts."""
        (batch,) = self.validation(BASELINE_TEXTS, BASELINE_TEXTS)
        answers = batch.targets[batch.counted]
        return {"class_prior": class_prior(answers, answers, self.num_classes)}


@dataclass(frozen=True, eq=False)
class LabelledTextTask(SequenceTask):
    """Predict the label of a text, [N] int64, or of each word at its first token, [N, T] with IGNORED elsewhere."""

    kind: ClassVar[str] = "classification"

    num_classes: int

    def _targets(self, inputs: Tensor, valid: Tensor, labels: Sequence[Tensor]) -> Tensor:
        (found,) = labels
        return found if found.dim() == 1 else found[:, : inputs.shape[1]]

    def baseline_losses(self) -> dict[str, float]:
        """class_prior: cross entropy in nats of the held-out labels under the class frequencies of training."""
        seen, held_out = (part[2][part[2] != IGNORED] for part in (self.train, self.held_out))
        return {"class_prior": class_prior(seen, held_out, self.num_classes)}


def class_prior(seen: Tensor, held_out: Tensor, num_classes: int) -> float:
    """Mean nats of classes held_out [N] under the frequencies in seen [M]; an unseen class counts as 0.5 examples."""
    counts = torch.bincount(seen, minlength=num_classes).double()
    counts = counts.where(counts > 0, 0.5)
    return float(-(counts / counts.sum()).log()[held_out].mean())


def padded(rows: Sequence[Sequence[int]], *labels: Sequence[Any]) -> tuple[Tensor, ...]:
    """(tokens [N, T] int32, lengths [N], labels...) of at least one row, sorted by length.

    Labels are one number per row, [N], or one per token, [N, T] padded with IGNORED.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = []
    for given in labels:
        values = [given[i] for i in order]
        found.append(torch.tensor(values) if isinstance(values[0], int) else _stacked(values, IGNORED))
    return *padded_in_order([rows[i] for i in order]), *found


def padded_in_order(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens [N, T] int32, padded with 0, and lengths [N] of `rows` in their given order."""
    return _stacked(rows, 0).int(), torch.tensor([len(row) for row in rows])


def _stacked(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """The rows as [N, T] int64, padded with `filler`."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=filler)
