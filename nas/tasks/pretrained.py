"""Text as the tokens of a pretrained model: what comes next, or the embeddings that the model itself gives.

A sub-network of an embedding model is judged by how far its embeddings are from the whole model's, so no labels are
needed; one of a decoder by its loss on the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.importing.space import judged_length
from nas.tasks.base import Batch, Indices, Task, draw, loss
from nas.tasks.text import TextTask
from searchspace.model import Model
from searchspace.primitives.context import Tokens

BASELINE_TEXTS = 256
MIN_TEXTS = 4  # held out, line by line: fewer tell nothing of a model, and one is always closest to itself


@dataclass(frozen=True, eq=False)
class TokenTask(TextTask):
    """Predict each next token. `train` and `held_out` are (tokens [N] int32,)."""

    def baseline_losses(self) -> dict[str, float]:
        """Of held-out tokens: cross entropy under training frequencies, and H(next | token before) by their counts."""
        seen, text = (part[0].numpy().astype(np.int64) for part in (self.train, self.held_out))
        size = int(max(seen.max(), text.max())) + 1
        frequencies = np.bincount(seen, minlength=size) + 0.01
        unigram = -float(np.log(frequencies / frequencies.sum())[text].mean())
        _, pairs = np.unique(text[:-1] * size + text[1:], return_counts=True)
        before = np.bincount(text[:-1])
        entropy = float(
            (before[before > 0] * np.log(before[before > 0])).sum() - (pairs * np.log(pairs)).sum()
        )
        return {"unigram": unigram, "split_bigram_entropy": entropy / (len(text) - 1)}


@dataclass(frozen=True, eq=False)
class EmbeddingTask(Task):
    """Come close to the embeddings of `teacher`. `train` and `held_out` are (tokens [N, T] int32, lengths [N]).

    Both are sorted by length and a batch is a run of neighbours, so that little of it is padding.
    """

    kind: ClassVar[str] = "embedding"

    teacher: Model

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[0])

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        (start,) = draw(seed, step, max(1, len(self.train[0]) - batch_size + 1), 1)
        return self._taught(self.train, np.arange(start, min(start + batch_size, len(self.train[0]))))

    def validation(self, num_examples: int | None, batch_size: int) -> list[Batch]:
        total = self.num_validation_examples
        count = total if num_examples is None else min(num_examples, total)
        chosen = np.arange(count, dtype=np.int64) * total // count
        parts: list[Indices] = np.array_split(chosen, -(-count // batch_size))
        return [self._validation_batch(part) for part in parts]

    def _validation_batch(self, examples: Indices) -> Batch:
        return self._taught(self.held_out, examples)

    @torch.no_grad()
    def _taught(self, part: tuple[Tensor, ...], examples: Indices) -> Batch:
        """inputs: [B, T] int64; targets: [B, D], or [B, T, D] of a model that does not pool; valid: [B, T]."""
        rows, lengths = (tensor[torch.from_numpy(examples)] for tensor in part)
        inputs = rows[:, : int(lengths.max())].long()
        valid = torch.arange(inputs.shape[1]) < lengths[:, None]
        return Batch(inputs, self.teacher(inputs, Tokens(valid=valid))[0], valid)

    def baseline_losses(self) -> dict[str, float]:
        """1 - cosine to the embedding of another text."""
        (batch,) = self.validation(BASELINE_TEXTS, BASELINE_TEXTS)
        return {"another_text": float(loss(batch.targets.roll(1, 0), batch.targets, batch.valid))}


def of_model(model: Imported, base: TextTask) -> Task:
    """The text of `base` for `model`. Raises UsageError where it can't be read as the model's tokens."""
    if model.tokenizer_path is None:
        raise UsageError(
            "--model: the folder has no tokenizer.json, so no text can be read as the model's tokens"
        )
    if model.arch.task not in ("causal_lm", "embedding"):
        raise UsageError(
            f"--model: its task is {model.arch.task}; a search takes a decoder, or an encoder that ends in embeddings"
        )
    train, held_out = (
        bytes(part[0].numpy()).decode("utf-8", "replace") for part in (base.train, base.held_out)
    )
    tokenizer, provenance = (
        tokenizer_of(model.tokenizer_path),
        f"{base.provenance}; read as tokens of the model",
    )
    context = judged_length(model.arch.stem)
    if model.arch.task == "causal_lm":
        parts = [torch.tensor(tokenizer.encode(text).ids, dtype=torch.int32) for text in (train, held_out)]
        _check_ids(model, max(int(part.max(initial=0)) for part in map(np.asarray, parts)))
        if min(map(len, parts)) <= context:
            raise UsageError(
                f"--data {base.name}: each part needs more than {context} tokens; give a longer text"
            )
        return TokenTask(base.name, provenance, (parts[0],), (parts[1],), context)
    tokenizer.enable_truncation(context)
    lines = [[line for line in text.splitlines() if line.strip()] for text in (train, held_out)]
    if min(map(len, lines)) < MIN_TEXTS:
        raise UsageError(
            f"--data {base.name}: an embedding model is judged on texts line by line, and it has {len(lines[0])} lines "
            f"for training and {len(lines[1])} held out; give at least {MIN_TEXTS} of each, which is some "
            f"{10 * MIN_TEXTS} lines"
        )
    found = [padded(tokenizer, texts) for texts in lines]
    _check_ids(model, max(int(tokens.max()) for tokens, _ in found))
    return EmbeddingTask(base.name, f"{provenance}, line by line", found[0], found[1], model.model())


def _check_ids(model: Imported, largest: int) -> None:
    """Raises UsageError for a token that the model has no row for."""
    size = model.arch.stem["vocab_size"]
    if largest >= size:
        raise UsageError(
            f"--model: its tokenizer.json gives token {largest}, the model has {size} (vocab_size); "
            "put the tokenizer that it was trained with into the folder"
        )


def padded(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokens [N, T] int32 of texts, at least one, the shortest first, and their lengths [N]."""
    encoded = sorted((e.ids for e in tokenizer.encode_batch(list(texts))), key=len)
    lengths = torch.tensor([len(ids) for ids in encoded])
    tokens = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.int32)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return tokens, lengths


def tokenizer_of(path: Path) -> Any:
    """The tokenizer of the package tokenizers in a tokenizer.json, without padding or truncation."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError(
            "--model: reading text for it needs the package tokenizers: pip install tokenizers"
        ) from None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
