"""From what the user names after --data to a task that fits the space's stem and head."""

from __future__ import annotations

from nas.errors import UsageError
from nas.importing.load import imported
from nas.importing.space import JUDGED_TOKENS
from nas.tasks.base import Task
from nas.tasks.digits import PADDED_SIDE, ImageTask, digits, mnist
from nas.tasks.examples import is_labelled
from nas.tasks.images import of_images
from nas.tasks.masked_text import masked
from nas.tasks.names import IMAGES, PLAYS
from nas.tasks.pretrained import labelled, of_model
from nas.tasks.text import NUM_BYTES, TextTask, plays, user_text
from searchspace.spec.arch import OpSpec

MIN_EXAMPLES = 4


def load_task(data: str, *, stem: OpSpec, head: OpSpec, model: str = "") -> Task:
    """`data` is "plays", "digits", "mnist" or the path of a text (write ./plays for a folder of that name).

    A text is predicted byte by byte, or filled in where the head is an mlm_head. With `model`, the folder of an
    imported one, it is read as that model's tokens, or as labelled texts where its name ends like a table of them; an
    encoder of images takes a folder of images or an npz file.
    """
    if model and stem.op == "class_patch_embedding":
        images = {"digits": digits, "mnist": mnist}.get(data)
        return _enough(of_images(imported(model), images() if images else data))
    if data in IMAGES:
        return _images(data, stem, head)
    if model and is_labelled(data):
        return _enough(labelled(imported(model), data))
    if model:
        text = plays(JUDGED_TOKENS) if data == PLAYS else user_text(data, JUDGED_TOKENS)
        return _enough(of_model(imported(model), text))
    if stem.op != "token_embedding" or head.op not in ("lm_head", "mlm_head"):
        raise UsageError(
            f"--data {data}: text needs a space with the stem token_embedding and a head that predicts tokens, "
            f"this one has {stem.op} and {head.op}; use --data {' or '.join(IMAGES)} or a space such as tiny-lm"
        )
    fills_in = head.op == "mlm_head"
    _expect(data, stem, "vocab_size", NUM_BYTES + fills_in)
    context = stem.get("max_len")
    if not isinstance(context, int) or context < 1:
        raise UsageError(
            f"--data {data}: the space's token_embedding must state max_len, a length >= 1, got {context}"
        )
    text = plays(context) if data == PLAYS else user_text(data, context)
    return _enough(masked(text) if fills_in else text)


def _enough(task: Task) -> Task:
    """Raises UsageError for so little held out that a loss on it says nothing."""
    count = task.num_validation_examples
    if count < MIN_EXAMPLES:
        is_text = isinstance(task, TextTask)
        what, right = ("pieces of text", "a longer text") if is_text else ("examples", "more of them")
        raise UsageError(
            f"--data {task.name}: networks would be judged on {count} held-out {what}, at least {MIN_EXAMPLES} are "
            f"needed; give {right}"
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
