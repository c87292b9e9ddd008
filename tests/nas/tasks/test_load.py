"""A task is loaded only for a space that it fits; otherwise the sentence says what the space must have."""

from pathlib import Path

import pytest

from nas.errors import UsageError
from nas.tasks.digits import ImageTask
from nas.tasks.load import load_task
from nas.tasks.masked_text import MaskedTextTask
from nas.tasks.text import TextTask
from searchspace.spec.arch import OpSpec

TOKENS = OpSpec.of("token_embedding", vocab_size=256, max_len=32)
LM_HEAD = OpSpec.of("lm_head")
PATCHES = OpSpec.of("patch_embedding", image_size=8, patch_size=2, channels=1)
MASKED_TOKENS = OpSpec.of("token_embedding", vocab_size=257, max_len=32)
MLM_HEAD = OpSpec.of("mlm_head")
CLASSIFIER = OpSpec.of("classifier", num_classes=10)


def test_the_plays_take_their_context_from_the_stem() -> None:
    task = load_task("plays", stem=TOKENS, head=LM_HEAD)
    assert isinstance(task, TextTask)
    assert (task.kind, task.context, task.vocab_size) == ("causal_lm", 32, 256)


def test_the_digits_fit_a_patch_embedding_and_a_classifier() -> None:
    task = load_task("digits", stem=PATCHES, head=CLASSIFIER)
    assert isinstance(task, ImageTask)
    assert (task.kind, task.num_classes) == ("classification", 10)


@pytest.mark.parametrize(("image_size", "margin"), [(28, 0), (32, 2)])
def test_mnist_comes_in_the_size_that_the_stem_takes(image_size: int, margin: int) -> None:
    stem = OpSpec.of("patch_embedding", image_size=image_size, patch_size=2, channels=1)
    task = load_task("mnist", stem=stem, head=CLASSIFIER)
    assert isinstance(task, ImageTask)
    assert task.image_shape == (1, image_size, image_size)
    assert not task.held_out[0][:, :, :margin].any()


def test_a_masked_head_makes_text_something_to_fill_in() -> None:
    task = load_task("plays", stem=MASKED_TOKENS, head=MLM_HEAD)
    assert isinstance(task, MaskedTextTask)
    assert (task.kind, task.context, task.vocab_size) == ("masked_lm", 32, 257)
    assert task.content_id == load_task("plays", stem=TOKENS, head=LM_HEAD).content_id


def test_any_other_name_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("to be or not to be " * 100)
    task = load_task(str(tmp_path / "mine.txt"), stem=TOKENS, head=LM_HEAD)
    assert bytes(task.train[0][:5].tolist()) == b"to be"


@pytest.mark.parametrize(
    ("data", "stem", "head", "complaint"),
    [
        ("plays", PATCHES, CLASSIFIER, "stem token_embedding"),
        ("plays", TOKENS, CLASSIFIER, "a head that predicts tokens"),
        ("digits", TOKENS, LM_HEAD, "stem patch_embedding"),
        (
            "plays",
            OpSpec.of("token_embedding", vocab_size=100, max_len=32),
            LM_HEAD,
            "vocab_size 256, got 100",
        ),
        ("plays", TOKENS, MLM_HEAD, "vocab_size 257, got 256"),
        ("plays", TOKENS, OpSpec.of("lm_head", vocab_size=100), "lm_head must have vocab_size 256, got 100"),
        ("mnist", PATCHES, CLASSIFIER, "image_size 28, got 8"),
        ("plays", OpSpec.of("token_embedding", vocab_size=256), LM_HEAD, "must state max_len"),
        (
            "digits",
            OpSpec.of("patch_embedding", image_size=32, channels=1),
            CLASSIFIER,
            "image_size 8, got 32",
        ),
        ("digits", OpSpec.of("patch_embedding", image_size=8, channels=3), CLASSIFIER, "channels 1, got 3"),
        ("digits", PATCHES, OpSpec.of("classifier", num_classes=100), "num_classes 10, got 100"),
        ("playz", TOKENS, LM_HEAD, "no such file or folder; give plays, digits"),
    ],
)
def test_data_that_does_not_fit_the_space_is_refused(
    data: str, stem: OpSpec, head: OpSpec, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as raised:
        load_task(data, stem=stem, head=head)
    assert str(raised.value).startswith(f"--data {data}: ")
