"""Quality metrics besides loss and accuracy, on the held-out part of a task.

    kl            mean KL(original || network) in nats over counted targets, for networks with classes or tokens
    cosine        mean cosine between a network's embeddings and the original's
    pearson       correlation of a pair's cosine with its score, over the held-out pairs
    spearman      rank correlation of a pair's cosine with its score
    exact_match   share of sequences where every counted target has the largest logit; for completions, those that
                  greedy decoding reproduces

`original` is the imported model that the networks are cut from. A user-defined function is called once with all
held-out (outputs, labels) on the CPU: outputs [N, C] float32 and labels [N] int64 of counted targets; both [N, D] for
vectors as targets; outputs [N, 2, D] and scores [N] for pairs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.errors import UsageError
from nas.tasks.base import Batch, Task
from nas.tasks.metric_names import is_own, own_metric
from nas.tasks.sequences import PairTask

MOST_KEPT = 2**31  # maximum bytes of outputs that are collected for a user-defined function
Forward = Callable[[Batch], Tensor]  # a network's outputs for a batch


class Metric(ABC):
    """Accumulates over the batches of one network, then gives a value."""

    @abstractmethod
    def begun(self) -> Metric:
        """A fresh metric for the next network."""

    @abstractmethod
    def add(self, batch: Batch, outputs: Tensor) -> None:
        """Take a batch and the network's outputs for it: [B, T, C] or [B, C], or [B, T, D] or [B, D] embeddings."""

    @abstractmethod
    def value(self) -> float:
        """The value over all batches."""


class Mean(Metric):
    """The mean of what `each` returns: a tensor [n] of one number per counted item of a batch."""

    def __init__(self, each: Callable[[Batch, Tensor], Tensor]) -> None:
        self.each, self.total, self.count = each, 0.0, 0

    def begun(self) -> Mean:
        return Mean(self.each)

    def add(self, batch: Batch, outputs: Tensor) -> None:
        found = self.each(batch, outputs)
        self.total += float(found.double().sum())
        self.count += found.numel()

    def value(self) -> float:
        return self.total / self.count


class Whole(Metric):
    """The value of `of_all`, which is called with the outputs and labels of all batches."""

    def __init__(self, name: str, of_all: Callable[[Tensor, Tensor], Any]) -> None:
        self.name, self.of_all = name, of_all
        self.outputs: list[Tensor] = []
        self.labels: list[Tensor] = []

    def begun(self) -> Whole:
        return Whole(self.name, self.of_all)

    def add(self, batch: Batch, outputs: Tensor) -> None:
        """Collect outputs and labels of the counted targets. Raises UsageError for more than MOST_KEPT bytes."""
        if batch.labels is not None:
            outputs, labels = outputs.view(-1, 2, *outputs.shape[1:]), batch.labels
        else:
            rows, last = batch.counted.flatten(), outputs.dim() - 2
            labels = batch.targets.flatten(0, last)[rows]
            outputs = outputs.flatten(0, last)[rows]
        self.outputs.append(outputs.float().cpu())
        self.labels.append(labels.cpu())
        kept = sum(t.numel() for t in self.outputs) * 4
        if kept > MOST_KEPT:
            raise UsageError(
                f"--metric {self.name}: the outputs of the held-out examples take more than {MOST_KEPT:,} bytes; give "
                f"fewer validation_examples in the recipe"
            )

    def value(self) -> float:
        """See `Metric.value`. Raises ValueError if the function returns no finite number."""
        found = self.of_all(torch.cat(self.outputs), torch.cat(self.labels))
        try:
            number = float(found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} gave {found!r}, not a number") from error
        if not math.isfinite(number):
            raise ValueError(f"{self.name} gave {number}, not a finite number")
        return number


def exact_match(batch: Batch, outputs: Tensor) -> Tensor:
    """For each sequence with counted targets, whether all are predicted; outputs: [B, T, C] or [B, C] -> [N] bool."""
    counted, right = batch.counted, outputs.argmax(-1) == batch.targets
    if counted.dim() == 1:
        return right[counted]
    return (right | ~counted).all(1)[counted.any(1)]


def kl(original: Tensor, network: Tensor) -> Tensor:
    """KL(original || network) in nats; logits [N, C] -> [N]."""
    theirs, ours = (F.log_softmax(t.float(), dim=-1) for t in (original, network))
    return (theirs.exp() * (theirs - ours)).sum(-1)


def similarities(outputs: Tensor) -> Tensor:
    """Cosine of the two embeddings of each pair; [N, 2, D] -> [N]."""
    return F.cosine_similarity(outputs[:, 0].double(), outputs[:, 1].double(), dim=-1)


def pearson(outputs: Tensor, labels: Tensor) -> float:
    """Pearson correlation of cosines with scores; outputs: [N, 2, D]; labels: [N]. Raises ValueError if constant."""
    return _correlation("pearson", "pearsonr", outputs, labels)


def spearman(outputs: Tensor, labels: Tensor) -> float:
    """Spearman correlation of cosines with scores; outputs: [N, 2, D]; labels: [N]. Raises ValueError if constant."""
    return _correlation("spearman", "spearmanr", outputs, labels)


def _correlation(name: str, function: str, outputs: Tensor, labels: Tensor) -> float:
    from scipy import stats

    values, scores = similarities(outputs).numpy(), labels.double().numpy()
    if len(values) < 2 or values.min() == values.max() or scores.min() == scores.max():
        raise ValueError(
            f"{name}: all {len(values)} pairs have the same similarity or the same score, so they can't be ranked"
        )
    return float(getattr(stats, function)(values, scores).statistic)


def metrics_of(names: Sequence[str], task: Task, original: Callable[[], Forward] | None) -> dict[str, Metric]:
    """The metrics with these names; `original` loads the imported model, None if there is none.

    Raises UsageError like `check_metric`.
    """
    found: dict[str, Metric] = {}
    for name in names:
        check_metric(name, task, original is not None)
        if is_own(name):
            found[name] = Whole(name, own_metric(name))
        elif name in ("pearson", "spearman"):
            found[name] = Whole(name, pearson if name == "pearson" else spearman)
        elif name == "exact_match":
            found[name] = Mean(exact_match)
        elif name == "cosine":
            found[name] = Mean(_cosine)
        elif name == "kl":
            assert original is not None
            found[name] = Mean(_divergence(original()))
    return found


def check_metric(name: str, task: Task, has_original: bool) -> None:
    """Raises UsageError if the metric does not suit the task, naming what it needs, or can't be imported."""
    embeds = task.kind == "embedding"
    right = ""
    if is_own(name):
        own_metric(name)
    elif name in ("pearson", "spearman") and not isinstance(task, PairTask):
        right = "pairs of sentences with scores: an embedding --model, and --data with sentence1, sentence2 and score"
    elif name == "kl" and (embeds or not has_original):
        right = (
            "an original that predicts tokens or classes: a --model that is a language model or a classifier"
        )
    elif name == "cosine" and not embeds:
        right = "an embedding --model"
    elif name == "exact_match" and embeds:
        right = "tokens or classes to predict, and this model embeds"
    if right:
        raise UsageError(f"--metric {name}: it needs {right}")


def _cosine(batch: Batch, outputs: Tensor) -> Tensor:
    ours, theirs = (t.flatten(0, -2).float() for t in (outputs, batch.targets))
    rows = batch.counted.flatten()
    return F.cosine_similarity(ours[rows], theirs[rows], dim=-1)


def _divergence(original: Forward) -> Callable[[Batch, Tensor], Tensor]:
    def each(batch: Batch, outputs: Tensor) -> Tensor:
        rows, theirs = batch.counted.flatten(), original(batch)
        return kl(theirs.flatten(0, -2)[rows], outputs.flatten(0, -2)[rows])

    return each
