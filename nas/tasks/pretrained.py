"""Tasks on a pretrained model's tokens: next tokens, masked tokens, the model's own outputs, or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.importing.space import judged_length
from nas.tasks.base import IGNORED, Task
from nas.tasks.examples import read_examples
from nas.tasks.masked_text import MaskedTextTask
from nas.tasks.sequences import AgreementTask, EmbeddingTask, LabelledTextTask, padded
from nas.tasks.text import TextTask

MIN_TEXTS = (
    4  # in each part, for a meaningful result: a single text, for example, is always closest to itself
)
MASKS = ("[MASK]", "<mask>")


def token_baselines(train: Tensor, held_out: Tensor) -> dict[str, float]:
    """Baseline losses in nats for tokens train [N] and held_out [M].

    unigram: cross entropy of the held-out tokens under training frequencies; split_bigram_entropy: H(next | previous
    token) from the held-out part's own counts.
    """
    seen, text = (part.numpy().astype(np.int64) for part in (train, held_out))
    size = int(max(seen.max(), text.max())) + 1
    frequencies = np.bincount(seen, minlength=size) + 0.01
    unigram = -float(np.log(frequencies / frequencies.sum())[text].mean())
    _, pairs = np.unique(text[:-1] * size + text[1:], return_counts=True)
    before = np.bincount(text[:-1])
    entropy = float((before[before > 0] * np.log(before[before > 0])).sum() - (pairs * np.log(pairs)).sum())
    return {"unigram": unigram, "split_bigram_entropy": entropy / (len(text) - 1)}


@dataclass(frozen=True, eq=False)
class TokenTask(TextTask):
    """Predict each next token; `train` and `held_out` are (tokens [N] int32,)."""

    def baseline_losses(self) -> dict[str, float]:
        return token_baselines(*self.train, *self.held_out)


@dataclass(frozen=True, eq=False)
class MaskedTokenTask(MaskedTextTask):
    """Predict masked tokens; `train` and `held_out` are (tokens [N] int32,)."""

    def baseline_losses(self) -> dict[str, float]:
        return token_baselines(*self.train, *self.held_out)


def of_model(model: Imported, base: TextTask) -> Task:
    """The task of `model` on the text of `base`. Raises UsageError if the text is too short or can't be tokenized."""
    tokenizer = tokenizer_for(model)
    train, held_out = (
        bytes(part[0].numpy()).decode("utf-8", "replace") for part in (base.train, base.held_out)
    )
    provenance = f"{base.provenance}; read as tokens of the model"
    context = judged_length(model.arch.stem)
    if model.arch.task in ("causal_lm", "masked_lm"):
        is_masked = model.arch.task == "masked_lm"
        around = _around(tokenizer) if is_masked else ((), ())
        parts = [
            torch.tensor(tokenizer.encode(text, add_special_tokens=not is_masked).ids, dtype=torch.int32)
            for text in (train, held_out)
        ]
        check_ids(model, max(int(part.max(initial=0)) for part in map(np.asarray, parts)))
        if min(map(len, parts)) <= context:
            raise UsageError(
                f"--data {base.name}: each part needs more than {context} tokens; give a longer text"
            )
        if not is_masked:
            return TokenTask(base.name, provenance, (parts[0],), (parts[1],), context)
        count = model.arch.stem["vocab_size"]
        return MaskedTokenTask(
            base.name,
            provenance,
            (parts[0],),
            (parts[1],),
            context - sum(map(len, around)),
            _mask(tokenizer),
            count,
            *around,
        )
    lines = [[line for line in text.splitlines() if line.strip()] for text in (train, held_out)]
    if min(map(len, lines)) < MIN_TEXTS:
        raise UsageError(
            f"--data {base.name}: for this model each line is a text, and there are {len(lines[0])} lines for training "
            f"and {len(lines[1])} held out; give at least {MIN_TEXTS} of each, which takes about {10 * MIN_TEXTS} lines"
        )
    tokenizer.enable_truncation(context)
    seen, kept = (padded([e.ids for e in tokenizer.encode_batch(texts)]) for texts in lines)
    check_ids(model, max(int(part[0].max()) for part in (seen, kept)))
    provenance = f"{provenance}, line by line"
    if model.arch.task == "embedding":
        return EmbeddingTask(base.name, provenance, seen, kept, model.model())
    count = model.arch.head["num_classes"]
    return AgreementTask(
        base.name,
        f"{provenance}; targets are the classes that the whole model predicts",
        seen,
        kept,
        count,
        model.model(),
    )


def labelled(model: Imported, data: str) -> Task:
    """Labelled texts for an imported classifier; a fifth of each class is held out if the data has one part.

    Raises UsageError if the model is no classifier or the labels do not fit its classes.
    """
    if model.arch.task != "classification":
        raise UsageError(
            f"--data {data}: labels are for a classifier, and --model ends in {model.arch.head.op}; give a text file"
        )
    tokenizer, by_word = tokenizer_for(model), model.arch.head.get("pooling") == "none"
    tokenizer.enable_truncation(judged_length(model.arch.stem))
    classes = model.labels or [str(i) for i in range(model.arch.head["num_classes"])]
    examples = read_examples(data, classes, by_word)
    encoded = tokenizer.encode_batch(list(examples.texts), is_pretokenized=by_word)
    rows = [e.ids for e in encoded]
    check_ids(model, max(map(max, rows)))
    labels = list(examples.labels)
    if by_word:
        labels = [_of_tokens(e, given) for e, given in zip(encoded, labels, strict=True)]
    train, held_out = (padded(*examples.of(part, rows, labels)) for part in examples.parts)
    return LabelledTextTask(data, examples.about, train, held_out, model.arch.head["num_classes"])


def _of_tokens(encoded: Any, labels: Sequence[int]) -> list[int]:
    """A label per token: that of the word that the token begins, or IGNORED if it begins none."""
    words = encoded.word_ids
    begins = [word is not None and word not in words[:i] for i, word in enumerate(words)]
    return [labels[word] if first else IGNORED for word, first in zip(words, begins, strict=True)]


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer adds before and behind a text."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:start]), tuple(whole[start + len(bare) :])


def _mask(tokenizer: Any) -> int:
    """The id of the mask token. Raises UsageError if the tokenizer has none."""
    found = [tokenizer.token_to_id(name) for name in MASKS]
    for token in found:
        if token is not None:
            return int(token)
    raise UsageError(
        f"--model: its tokenizer.json has no mask token ({' or '.join(MASKS)}), which masked text needs"
    )


def tokenizer_for(model: Imported) -> Any:
    """The model's tokenizer, see `tokenizer_of`. Raises UsageError if its folder has none."""
    if model.tokenizer_path is None:
        raise UsageError(
            "--model: the folder has no tokenizer.json, which is needed to read text as the model's tokens"
        )
    return tokenizer_of(model.tokenizer_path)


def check_ids(model: Imported, largest: int) -> None:
    """Raises UsageError if the token id `largest` is not below the model's vocab_size."""
    size = model.arch.stem["vocab_size"]
    if largest >= size:
        raise UsageError(
            f"--model: its tokenizer.json gives token {largest}, the model has {size} (vocab_size); "
            "put the tokenizer that it was trained with into the folder"
        )


def tokenizer_of(path: Path) -> Any:
    """A `tokenizers.Tokenizer` from a tokenizer.json, without padding or truncation.

    Raises UsageError if the package tokenizers is not installed.
    """
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
