"""From what the user names after --data to a task that fits the space's stem and head."""

from __future__ import annotations

from nas.errors import UsageError
from nas.tasks.base import Task
from nas.tasks.digits import digits
from nas.tasks.text import NUM_BYTES, plays, user_text
from searchspace.spec.arch import OpSpec


def load_task(data: str, *, stem: OpSpec, head: OpSpec) -> Task:
    """`data` is "plays", "digits" or the path of a text (write ./plays for a folder of that name)."""
    if data == "digits":
        return _digits(stem, head)
    if stem.op != "token_embedding" or head.op == "classifier":
        raise UsageError(
            f"--data {data}: text needs a space with the stem token_embedding and a head that predicts "
            f"tokens, this one has {stem.op} and {head.op}; use --data digits or a space such as tiny-lm"
        )
    _expect(data, stem, "vocab_size", NUM_BYTES)
    context = stem.get("max_len")
    if not isinstance(context, int) or context < 1:
        raise UsageError(
            f"--data {data}: the space's token_embedding must state max_len, a length >= 1, got {context}"
        )
    return plays(context) if data == "plays" else user_text(data, context)


def _digits(stem: OpSpec, head: OpSpec) -> Task:
    if stem.op != "patch_embedding" or head.op != "classifier":
        raise UsageError(
            f"--data digits: images need a space with the stem patch_embedding and the head classifier, "
            f"this one has {stem.op} and {head.op}; use --data plays or a space such as tiny-vision"
        )
    task = digits()
    channels, height, _ = task.image_shape
    _expect("digits", stem, "image_size", height)
    _expect("digits", stem, "channels", channels)
    _expect("digits", head, "num_classes", task.num_classes)
    return task


def _expect(data: str, op: OpSpec, item: str, expected: int) -> None:
    if op.get(item) != expected:
        raise UsageError(
            f"--data {data}: the space's {op.op} must have {item} {expected}, got {op.get(item)}"
        )
