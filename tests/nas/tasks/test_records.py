"""Rows of one's own, in every form that they may have, for networks of bytes and for imported ones."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from nas.errors import UsageError
from nas.tasks.base import IGNORED
from nas.tasks.load import load_task
from nas.tasks.of_rows import completions
from nas.tasks.records import COMPLETION, KINDS, OF_TEXTS, PAIR, TEXT, is_rows, kind_of, read_rows
from nas.tasks.sequences import CompletionTask, LabelledTextTask
from nas.tasks.text import TextTask, user_text
from searchspace.spec.arch import OpSpec

STEM = OpSpec.of("token_embedding", vocab_size=256, max_len=16)
LM_HEAD = OpSpec.of("lm_head")
CLASSIFIER = OpSpec.of("classifier", num_classes=2)
LAST = "the last of the files is held out, which is text as it stands, long enough for a few examples"
TEXTS: list[dict[str, Any]] = [{"text": f"{i:02} of the texts,\nof two lines", "id": i} for i in range(40)]
TASKS = [{"prompt": f"{i} + {i} = ", "completion": str(2 * i)} for i in range(60)]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows as the form that the name of the file ends in; "" for a folder as datasets writes it."""
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix in (".csv", ".tsv"):
        from pyarrow import csv

        csv.write_csv(table, path, csv.WriteOptions(delimiter="," if path.suffix == ".csv" else "\t"))
    elif path.suffix:
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        path.mkdir(parents=True)
        with pa.ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
        (path / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        )
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "saved"])
def test_every_form_gives_the_same_documents(name: str, tmp_path: Path):
    data = written(tmp_path / name, TEXTS)
    task = load_task(data, stem=STEM, head=LM_HEAD)
    assert isinstance(task, TextTask)
    assert is_rows(data)
    found = bytes(task.train[0].tolist()).decode(), bytes(task.held_out[0].tolist()).decode()
    kept = [row["text"] for row in TEXTS if row["text"] in found[1]]
    assert len(kept) == 4
    assert found == ("\n".join(r["text"] for r in TEXTS if r["text"] not in kept), "\n".join(kept))
    assert "id not read" in task.provenance
    by_line = user_text(data, 16, by_line=True)
    assert bytes(by_line.held_out[0].tolist()).decode().count("\n") == 3


def test_a_folder_may_hold_rows_alone_or_texts_too(tmp_path: Path):
    for i in range(2):
        written(tmp_path / f"{i}.jsonl", TEXTS[20 * i : 20 * i + 20])
    assert [row for _, row in read_rows(str(tmp_path), [TEXT]).rows] == [{"text": r["text"]} for r in TEXTS]
    (tmp_path / "9.txt").write_text(LAST)
    task = load_task(str(tmp_path), stem=STEM, head=LM_HEAD)
    assert bytes(task.held_out[0].tolist()) == LAST.encode()
    assert bytes(task.train[0].tolist()).decode() == "\n".join(r["text"] for r in TEXTS)
    written(tmp_path / "3.csv", TASKS)
    with pytest.raises(UsageError, match=r"3\.csv: line 2 has prompt, completion; give text"):
        load_task(str(tmp_path), stem=STEM, head=LM_HEAD)


def test_a_saved_data_set_with_splits_keeps_them(tmp_path: Path):
    written(tmp_path / "train", TEXTS[:30])
    written(tmp_path / "test", TEXTS[30:])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    rows = read_rows(str(tmp_path), KINDS)
    assert [r["text"] for _, r in rows.held_out] == [r["text"] for r in TEXTS[30:]]
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "../test/data.arrow"}]}')
    with pytest.raises(UsageError, match=r"train/state\.json names no files"):
        read_rows(str(tmp_path), KINDS)


def test_a_completion_alone_is_predicted(tmp_path: Path):
    task = load_task(written(tmp_path / "a.csv", TASKS), stem=STEM, head=LM_HEAD)
    assert isinstance(task, CompletionTask)
    assert task.num_validation_examples == 6
    for batch in task.validation(None, 4):
        assert batch.valid is not None
        for ids, targets, valid in zip(batch.inputs, batch.targets, batch.valid, strict=True):
            text = bytes(ids[valid].tolist()).decode()
            prompt, _, completion = text.partition(" = ")
            first = len(prompt) + 2  # what follows on the space before it
            assert bytes(targets[targets != IGNORED].tolist()).decode() == completion
            assert targets[first] == ord(completion[0])
    assert task.baseline_losses()["unigram"] < torch.log(torch.tensor(20.0))


def test_of_a_long_example_the_prompt_loses_its_beginning(tmp_path: Path):
    data = written(tmp_path / "a.jsonl", [{"prompt": "abcdef", "completion": "ghi"}] * 50)

    def encode(prompt: str, completion: str) -> tuple[list[int], int]:
        return list((prompt + completion).encode()), len(prompt)

    for context, shown, of_prompt in ((9, b"abcdefghi", 6), (5, b"efghi", 2), (2, b"fg", 1)):
        tokens, _, prompts = completions(data, context, encode, "bytes").held_out
        assert bytes(tokens[0].tolist()) == shown
        assert prompts.unique().tolist() == [of_prompt]


def test_a_network_of_bytes_learns_the_classes_of_texts(tmp_path: Path):
    rows = [{"text": f"text {i}", "label": ("odd", "even")[i % 2]} for i in range(60)]
    task = load_task(written(tmp_path / "a.parquet", rows), stem=STEM, head=CLASSIFIER)
    assert isinstance(task, LabelledTextTask)
    for batch in task.validation(None, 5):
        numbers = [int(bytes(ids[5:].tolist()).rstrip(b"\0")) for ids in batch.inputs]
        assert batch.targets.tolist() == [1 - n % 2 for n in numbers]  # even, odd
    with pytest.raises(UsageError, match=r"2 classes .* num_classes 3; give both the same"):
        load_task(str(tmp_path / "a.parquet"), stem=STEM, head=OpSpec.of("classifier", num_classes=3))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", "", "it has no rows; give some with text"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', "line 2 has txt; give text"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}', "line 2 has nothing; give text"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: text holds half of a character"),
        ("a.jsonl", '{"text": 3}', "line 1: text is 3; give a text"),
        ("a.jsonl", "[1]", "line 1 is no object"),
        ("a.jsonl", '{"text": "a"', "line 1 is not JSON"),
        ("a.jsonl", '{"words": "a"}', "line 1 has words; give text, or prompt and completion"),
        ("a.csv", "sentence1,sentence2,score\na,b,close", "line 2: score is 'close'; give a number"),
        ("a.csv", "text,label,text\na,b,c", "line 1 names 'text' twice"),
        ("a.parquet", "text", "it is no Parquet file"),
        ("state.json", "{", "state.json"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(name: str, content: str, complaint: str, tmp_path: Path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    data = tmp_path if name == "state.json" else tmp_path / name
    with pytest.raises(UsageError, match=complaint) as raised:
        read_rows(str(data), [TEXT, COMPLETION, OF_TEXTS, PAIR])
    assert str(raised.value).startswith(f"--data {data}: ")


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        ("", "line 3: label is ''; give the name"),
        (" ", "line 3: label is ' '; give the name"),
        (["odd"], "line 3: label is .'odd'.; give the name"),
        (float("nan"), "line 3: label is nan; give the name"),
    ],
)
def test_a_label_that_names_no_class_is_refused_by_its_line(label: Any, complaint: str, tmp_path: Path):
    rows = [{"text": f"text {i}", "label": ("odd", "even")[i % 2]} for i in range(60)]
    lines = map(json.dumps, [*rows[:2], {"text": "text", "label": label}, *rows[3:]])
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=complaint):
        load_task(str(tmp_path / "a.jsonl"), stem=STEM, head=CLASSIFIER)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_rows_of_one_class_alone_are_refused(num_classes: int, tmp_path: Path):
    data = written(tmp_path / "a.csv", [{"text": f"text {i}", "label": 0} for i in range(60)])
    with pytest.raises(UsageError, match="all of its 60 rows have the label 0"):
        load_task(data, stem=STEM, head=OpSpec.of("classifier", num_classes=num_classes))


def test_a_cell_of_a_table_may_hold_a_whole_document(tmp_path: Path):
    long = "a word and " * 20_000  # more than the 131,072 characters that the csv module allows by itself
    data = written(tmp_path / "a.csv", [{"text": long}])
    assert [row["text"] for _, row in read_rows(data, [TEXT]).rows] == [long]


def test_the_first_row_alone_says_what_the_rows_are(tmp_path: Path):
    """Large files are read once: what is wrong further on is said by whoever reads all of it."""
    (tmp_path / "a.jsonl").write_text(json.dumps(TASKS[0]) + "\nno row")
    assert kind_of(str(tmp_path / "a.jsonl"), KINDS) == COMPLETION
    with pytest.raises(UsageError, match="line 2 is not JSON"):
        read_rows(str(tmp_path / "a.jsonl"), KINDS)
