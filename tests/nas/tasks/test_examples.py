"""Labelled texts and images for an imported model: each keeps its own label, and what does not fit is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.errors import UsageError
from nas.importing.load import Imported
from nas.importing.space import space_data
from nas.tasks.base import IGNORED
from nas.tasks.examples import read_examples
from nas.tasks.images import of_images
from nas.tasks.pretrained import labelled, of_model
from nas.tasks.sequences import AgreementTask, LabelledTextTask
from nas.tasks.text import TextTask
from searchspace.load import resolve
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, OpSpec, StageSpec
from searchspace.spec.plain import plain_attention

WORDS = ["red", "green", "blue", "un", "##seen"]
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLASSES = ("warm", "cold", "none")
CLASS_OF = {"red": 0, "green": 1, "blue": 1, "unseen": 2}


def tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(WordPiece({t: i for i, t in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def imported(folder: Path, task: str, stem: OpSpec, head: OpSpec, labels: Sequence[str] = ()) -> Imported:
    mlp = OpSpec.of("mlp", d_ff=8, activation=OpSpec("gelu_erf"))
    block = BlockSpec(plain_attention(1, 1, 6), mlp, OpSpec("layernorm"))
    arch = ArchSpec(task, stem, 6, (block,), (StageSpec(1, 6),), head, position=NONE)
    space = resolve(space_data(arch, "tiny", "plays"))
    return Imported(arch, dict(Model(arch).state_dict()), space, tokenizer(folder), "", tuple(labels))


def of_text(folder: Path, task: str, head: OpSpec) -> Imported:
    stem = OpSpec.of("token_embedding", vocab_size=len(SPECIAL + WORDS), max_len=16)
    return imported(folder, task, stem, head, CLASSES)


def classifier(pooling: str) -> OpSpec:
    return OpSpec.of("classifier", num_classes=3, pooling=pooling, bias=True)


def rows(count: int = 60) -> list[list[str]]:
    """Texts of one to six words; the first one tells the class."""
    rng = np.random.default_rng(0)
    return [[str(w) for w in rng.choice(list(CLASS_OF), rng.integers(1, 7))] for _ in range(count)]


def written(path: Path, texts: list[list[str]]) -> Path:
    pairs = [(" ".join(words), CLASSES[CLASS_OF[words[0]]]) for words in texts]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in pairs]
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [mark.join(("text", "label")), *(mark.join(pair) for pair in pairs)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_every_text_keeps_its_label(suffix: str, tmp_path: Path):
    data = str(written(tmp_path / f"data{suffix}", rows()))
    task = labelled(of_text(tmp_path, "classification", classifier("first")), data)
    assert isinstance(task, LabelledTextTask)
    assert len(task.train[0]) + len(task.held_out[0]) == 60
    first = {len(SPECIAL) + WORDS.index(w): c for w, c in CLASS_OF.items() if w in WORDS} | {7: 2}
    for batch in (task.batch(0, 16, seed=0), *task.validation(None, 5)):
        assert batch.targets.tolist() == [first[token] for token in batch.inputs[:, 1].tolist()]
        assert bool(batch.counted.all())
    assert 0 < task.baseline_losses()["class_prior"] < 1.2


def test_the_label_of_a_word_is_that_of_its_first_token(tmp_path: Path):
    data = tmp_path / "data.jsonl"
    texts = rows()
    lines = [{"tokens": words, "labels": [CLASSES[CLASS_OF[w]] for w in words]} for words in texts]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    task = labelled(of_text(tmp_path, "classification", classifier("none")), str(data))
    (batch,) = task.validation(None, 100)
    of_token = {4: 0, 5: 1, 6: 1, 7: 2, 8: IGNORED, 1: IGNORED, 2: IGNORED}
    assert batch.valid is not None
    expected = [
        [of_token[t] for t in row[v].tolist()] for row, v in zip(batch.inputs, batch.valid, strict=True)
    ]
    assert [t[v].tolist() for t, v in zip(batch.targets, batch.valid, strict=True)] == expected


@pytest.mark.parametrize("pooling", ["first", "none"])
def test_without_labels_the_whole_model_is_always_right(pooling: str, tmp_path: Path):
    model = of_text(tmp_path, "classification", classifier(pooling))
    text = torch.tensor(list("\n".join(" ".join(words) for words in rows()).encode()), dtype=torch.uint8)
    task = of_model(model, TextTask("made", "up", (text,), (text,), 16))
    assert isinstance(task, AgreementTask)
    for batch in task.validation(20, 7):
        outputs = model.model()(batch.inputs, Tokens(valid=batch.valid))[0]
        assert torch.equal(outputs.argmax(-1), batch.targets)


def test_hidden_tokens_stand_between_the_tokens_around_a_text(tmp_path: Path):
    model = of_text(tmp_path, "masked_lm", OpSpec.of("mlm_head", vocab_size=9))
    text = torch.tensor(
        list(" ".join(word for words in rows() for word in words).encode()), dtype=torch.uint8
    )
    task = of_model(model, TextTask("made", "up", (text,), (text,), 16))
    batch = task.batch(0, 64, seed=0)
    assert batch.inputs.shape == (64, 16)
    assert batch.inputs[:, 0].unique().tolist() == [1]
    assert batch.inputs[:, -1].unique().tolist() == [2]
    assert (batch.targets[:, [0, -1]] == IGNORED).all()
    assert (batch.targets != IGNORED).sum(1).unique().tolist() == [2]  # 15 % of 14
    hidden = batch.targets != IGNORED
    assert 0.6 < float((batch.inputs[hidden] == 3).float().mean()) < 0.95
    assert set(batch.targets[hidden].tolist()) <= set(range(4, 9))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.jsonl",
            '{"text": "red", "label": "hot"}',
            r"line 1: label 'hot' is no class .* warm, cold, none",
        ),
        ("a.jsonl", '{"text": "red", "label": 3}', "line 1: label 3 is no class"),
        ("a.jsonl", '{"text": "red", "label": true}', "line 1: label True is no class"),
        ("a.jsonl", '{"text": "red"}', "line 1 has text; give text and label"),
        ("a.jsonl", '{"text": "red", "label": 1}\nred', "line 2 is not JSON"),
        ("a.jsonl", '{"text": " ", "label": 1}', "line 1: text is ' '; give a text"),
        ("a.csv", "words,label\nred,1", "line 2 has words, label; give text and label"),
        ("a.csv", "text,label\nred", "line 2: it has more or fewer columns"),
        ("a.csv", 'text,label\n"red,1', "can't be read as rows"),
    ],
)
def test_what_is_no_labelled_text_is_refused_by_its_line(
    name: str, content: str, complaint: str, tmp_path: Path
):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=complaint):
        read_examples(str(tmp_path / name), CLASSES, by_word=False)


def test_words_without_a_label_each_are_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["red", "blue"], "labels": [1]}', encoding="utf-8")
    with pytest.raises(UsageError, match="line 1: give a list of words as tokens and a label for each"):
        read_examples(str(path), CLASSES, by_word=True)


def test_labels_for_a_model_without_classes_are_refused(tmp_path: Path):
    data = str(written(tmp_path / "data.csv", rows()))
    model = of_text(tmp_path, "masked_lm", OpSpec.of("mlm_head", vocab_size=9))
    with pytest.raises(UsageError, match="labels are for a classifier, and --model ends in mlm_head"):
        labelled(model, data)


def of_image(folder: Path, labels: Sequence[str]) -> Imported:
    stem = OpSpec.of("class_patch_embedding", image_size=8, patch_size=4, channels=3)
    return imported(folder, "classification", stem, classifier("first"), labels)


def test_images_in_folders_keep_the_labels_of_these(tmp_path: Path):
    from PIL import Image

    for number, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.full((5 + i, 9, 3), 80 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    task = of_images(of_image(tmp_path, CLASSES), str(tmp_path / "images"))
    assert task.num_validation_examples == 6
    batch = task.batch(0, 32, seed=0)
    assert batch.inputs.shape == (32, 3, 8, 8)
    shade = batch.inputs[:, 0, 0, 0]  # of values from -1 to 1
    torch.testing.assert_close(shade, batch.targets * 80 / 255 * 2 - 1)
    (tmp_path / "images" / "strange").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "strange" / "1.png")
    with pytest.raises(UsageError, match="strange is not a class of the model, but cold is"):
        of_images(of_image(tmp_path, CLASSES), str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"pixels": np.zeros((9, 8, 8))}, "it holds pixels; give images"),
        ({"images": np.full((9, 8, 8), 7.0)}, "must lie between 0 and 1"),
        ({"images": np.zeros((9, 8, 8)), "labels": np.full(9, 3)}, "one number from 0 to 2"),
        ({"images": np.zeros((9, 2, 8, 8))}, "its images have 2 channels, the model takes 3"),
    ],
)
def test_arrays_that_are_no_images_of_the_model_are_refused(
    arrays: dict[str, Any], complaint: str, tmp_path: Path
):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=complaint):
        of_images(of_image(tmp_path, CLASSES), str(tmp_path / "a.npz"))
