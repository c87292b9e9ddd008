"""Makes a task that fits the space's stem and head from the value of --data."""

from __future__ import annotations

from nas.errors import UsageError
from nas.importing.load import Imported, imported
from nas.importing.space import JUDGED_TOKENS
from nas.tasks.base import Task
from nas.tasks.digits import PADDED_SIDE, ImageTask, digits, mnist
from nas.tasks.images import of_images
from nas.tasks.masked_text import masked
from nas.tasks.names import IMAGES, PLAYS
from nas.tasks.of_rows import byte_classes, byte_completions, model_completions, pairs
from nas.tasks.pretrained import labelled, of_model
from nas.tasks.records import COMPLETION, OF_TEXTS, OF_WORDS, PAIR, TEXT, Names, is_rows, kind_of
from nas.tasks.text import NUM_BYTES, TextTask, plays, user_text
from searchspace.spec.arch import OpSpec

MIN_EXAMPLES = 4


def load_task(data: str, *, stem: OpSpec, head: OpSpec, model: str = "") -> Task:
    """The task of `data`: "plays", "digits", "mnist" or a path of text or rows (./plays for a folder of that name).

    Networks predict the next byte of text, or masked bytes if the head is an mlm_head; rows (`nas.tasks.records`) with
    prompts make them predict completions, rows with labels predict classes. With `model`, the folder of an imported
    model, text is read as the model's tokens; an image encoder takes a folder of images or an npz file.
    Raises UsageError naming --data if it can't be read, is too small or does not fit the stem and head.
    """
    if not data and not model:
        raise UsageError(
            f"--data is missing, and the space names no default; give a text or rows of your own, or "
            f"{' or '.join(IMAGES) if 'image_size' in dict(stem.items) else PLAYS}"
        )
    if model and stem.op == "class_patch_embedding":
        images = {"digits": digits, "mnist": mnist}.get(data)
        return _enough(of_images(imported(model), images() if images else data))
    if data in IMAGES:
        return _images(data, stem, head)
    return _enough(_of_model(imported(model), data) if model else _of_bytes(data, stem, head))


def _of_model(model: Imported, data: str) -> Task:
    names = _names(data, model.arch.task, model.arch.head)
    if names in (OF_TEXTS, OF_WORDS):
        return labelled(model, data)
    if names == COMPLETION:
        return model_completions(model, data)
    if names == PAIR:
        return pairs(model, data)
    by_line = model.arch.task not in ("causal_lm", "masked_lm")
    return of_model(model, plays(JUDGED_TOKENS) if data == PLAYS else user_text(data, JUDGED_TOKENS, by_line))


def _of_bytes(data: str, stem: OpSpec, head: OpSpec) -> Task:
    tasks = {"lm_head": "causal_lm", "mlm_head": "masked_lm"}
    if is_rows(data) and "num_classes" in dict(head.items):
        tasks[head.op] = "classification"
    if stem.op != "token_embedding" or head.op not in tasks:
        raise UsageError(
            f"--data {data}: this space has the stem {stem.op} and the head {head.op}. Text needs the stem "
            f"token_embedding and a head that predicts tokens; rows with text and label need the stem token_embedding "
            f"and the head classifier. Use --data {' or '.join(IMAGES)}, or a space such as tiny-lm"
        )
    fills_in = head.op == "mlm_head"
    _expect(data, stem, "vocab_size", NUM_BYTES + fills_in)
    if "vocab_size" in dict(head.items):
        _expect(data, head, "vocab_size", NUM_BYTES)
    context = stem.get("max_len")
    if not isinstance(context, int) or context < 1:
        raise UsageError(
            f"--data {data}: the space's token_embedding must state max_len, a length >= 1, got {context}"
        )
    names = _names(data, tasks[head.op], head)
    if names == OF_TEXTS:
        return byte_classes(data, context, head["num_classes"])
    if names == COMPLETION:
        return byte_completions(data, context)
    text = plays(context) if data == PLAYS else user_text(data, context)
    return masked(text) if fills_in else text


def _names(data: str, task: str, head: OpSpec) -> Names:
    """The kind of rows in `data`, of those that a network of this task accepts; TEXT for data that is no rows.

    An embedding model also accepts texts without scores.
    """
    if data == PLAYS or not is_rows(data):
        return TEXT
    takes: dict[str, tuple[Names, ...]] = {
        "causal_lm": (COMPLETION, TEXT),
        "masked_lm": (TEXT,),
        "embedding": (PAIR, TEXT),
        "classification": (OF_WORDS,) if head.get("pooling") == "none" else (OF_TEXTS,),
    }
    return kind_of(data, takes[task])


def _enough(task: Task) -> Task:
    """The task itself. Raises UsageError if it has fewer than MIN_EXAMPLES held-out examples."""
    count = task.num_validation_examples
    if count < MIN_EXAMPLES:
        is_text = isinstance(task, TextTask)
        what, right = ("pieces of text", "a longer text") if is_text else ("examples", "more of them")
        raise UsageError(
            f"--data {task.name}: it has only {count} held-out {what} to judge networks on, at least {MIN_EXAMPLES} "
            f"are needed; give {right}"
        )
    return task


def _images(data: str, stem: OpSpec, head: OpSpec) -> ImageTask:
    if stem.op != "patch_embedding" or "num_classes" not in dict(head.items):
        raise UsageError(
            f"--data {data}: images need a space with the stem patch_embedding and the head classifier, "
            f"this one has {stem.op} and {head.op}; use --data plays or a space such as tiny-vision"
        )
    task = digits() if data == "digits" else mnist(padded=stem.get("image_size") == PADDED_SIDE)
    channels, height, _ = task.image_shape
    _expect(data, stem, "image_size", height)
    _expect(data, stem, "channels", channels)
    _expect(data, head, "num_classes", task.num_classes)
    return task


def _expect(data: str, op: OpSpec, item: str, expected: int) -> None:
    if op.get(item) != expected:
        raise UsageError(
            f"--data {data}: the space's {op.op} must have {item} {expected}, got {op.get(item)}"
        )
