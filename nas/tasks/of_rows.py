"""Tasks from rows (`nas.tasks.records`) with more than a text: completions, labelled texts, pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.importing.space import judged_length
from nas.tasks.examples import read_classes
from nas.tasks.pretrained import MIN_TEXTS, check_ids, tokenizer_for
from nas.tasks.records import COMPLETION, PAIR, Row, read_rows
from nas.tasks.sequences import CompletionTask, LabelledTextTask, PairTask, padded, padded_in_order

MIN_PAIRS = 10  # held out, whose scores are ranked
Encode = Callable[
    [str, str], tuple[list[int], int]
]  # (prompt, completion) -> (their tokens, number of tokens of the prompt)


def completions(data: str, context: int, encode: Encode, unit: str) -> CompletionTask:
    """The completion task on `data`, with at most `context` tokens each; longer prompts lose their beginning first.

    Raises UsageError if either part has fewer than MIN_TEXTS completions.
    """
    rows = read_rows(data, [COMPLETION])
    *parts, how = rows.parts()
    if min(map(len, parts)) < MIN_TEXTS:
        raise UsageError(
            f"--data {data}: it has {len(parts[0])} completions for training and {len(parts[1])} held out; give at "
            f"least {MIN_TEXTS} of each, which is some {10 * MIN_TEXTS} rows"
        )
    shortened = 0
    found = []
    for part in parts:
        tokens, prompts = [], []
        for _, row in part:
            ids, of_prompt = encode(row["prompt"], row["completion"])
            start = max(0, min(of_prompt - 1, len(ids) - context))
            shortened += len(ids) > context
            tokens.append(ids[start : start + context])
            prompts.append(of_prompt - start)
        found.append(padded(tokens, prompts))
    about = f"{rows.about}, {unit}; {how}"
    if shortened:
        about += f"; {shortened} of them shortened to {context} {unit}"
    return CompletionTask(data, about, *found)


def byte_completions(data: str, context: int) -> CompletionTask:
    """The completion task for a network that reads bytes. Raises UsageError like `completions`."""

    def encode(prompt: str, completion: str) -> tuple[list[int], int]:
        first = prompt.encode()
        return [*first, *completion.encode()], len(first)

    return completions(data, context, encode, "bytes")


def model_completions(model: Imported, data: str) -> CompletionTask:
    """The completion task for an imported decoder. Raises UsageError like `completions`, and for another model."""
    if model.arch.task != "causal_lm":
        raise UsageError(
            f"--data {data}: completions are for a decoder, and --model ends in {model.arch.head.op}; give rows of text"
        )
    tokenizer = tokenizer_for(model)

    def encode(prompt: str, completion: str) -> tuple[list[int], int]:
        found = tokenizer.encode(prompt + completion)
        check_ids(model, max(found.ids, default=0))
        # a token that spans both belongs to the completion; one without characters belongs to what follows it
        of_completion = (i for i, (_, end) in enumerate(found.offsets) if end > len(prompt))
        return found.ids, next(of_completion, len(found.ids))

    return completions(data, judged_length(model.arch.stem), encode, "tokens")


def pairs(model: Imported, data: str) -> PairTask:
    """Pairs of texts with scores for an imported embedding model.

    Raises UsageError for another model, and if either part has fewer than MIN_PAIRS pairs.
    """
    if model.arch.task != "embedding" or model.arch.head.get("pooling") == "none":
        raise UsageError(
            f"--data {data}: pairs of sentences are for a model with one embedding for each text, and --model ends in "
            f"{model.arch.head.op}; give rows of text"
        )
    rows = read_rows(data, [PAIR])
    train, held_out, how = rows.parts()
    if len(train) < MIN_PAIRS or len(held_out) < MIN_PAIRS:
        raise UsageError(
            f"--data {data}: it has {len(train)} pairs for training and {len(held_out)} held out; give at least "
            f"{MIN_PAIRS} of each, which is some {10 * MIN_PAIRS} rows"
        )
    tokenizer = tokenizer_for(model)
    tokenizer.enable_truncation(judged_length(model.arch.stem))

    def encoded(part: Sequence[Row], name: str) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch([row[name] for _, row in part])]

    first, second = ([encoded(part, name) for name in PAIR[:2]] for part in (train, held_out))
    check_ids(model, max(max(ids, default=0) for texts in (*first, *second) for ids in texts))
    order = sorted(range(len(held_out)), key=lambda i: max(len(texts[i]) for texts in second))
    rows_held, lengths = padded_in_order([texts[i] for i in order for texts in second])
    scores = torch.tensor([held_out[i][1]["score"] for i in order], dtype=torch.float32)
    kept = (rows_held, lengths, scores)
    return PairTask(data, f"{rows.about}; {how}", padded([*first[0], *first[1]]), kept, model.model())


def byte_classes(data: str, context: int, num_classes: int) -> LabelledTextTask:
    """Labelled texts for a network that reads at most `context` bytes. Raises UsageError like `read_classes`."""
    examples = read_classes(data, num_classes)
    rows = [list(text.encode()[:context]) for text in examples.texts]
    train, held_out = (padded(*examples.of(part, rows, examples.labels)) for part in examples.parts)
    return LabelledTextTask(data, f"{examples.about}, bytes", train, held_out, num_classes)
