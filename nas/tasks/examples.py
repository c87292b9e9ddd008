"""Labelled texts of the user's own: JSON lines, or CSV and TSV with a line of names.

    {"text": "I liked it", "label": "positive"}           also text,label in CSV and TSV
    {"tokens": ["Ada", "wrote"], "labels": ["PER", "O"]}  a label for each word, in JSON lines alone

A label is the name of a class of the model, or its number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.tasks.base import Indices

JSON_LINES, TABLES = (".jsonl", ".json"), {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*JSON_LINES, *TABLES)
OF_TEXTS, OF_WORDS = ("text", "label"), ("tokens", "labels")
SPLIT_SEED, HELD_OUT = 0, 5  # one part of five


@dataclass(frozen=True)
class Examples:
    """Each text, or its words, with the number of its class, or of each word's."""

    texts: Sequence[Any]
    labels: Sequence[Any]


def is_labelled(data: str) -> bool:
    return Path(data).suffix.lower() in SUFFIXES


def read_examples(data: str, classes: Sequence[str], by_word: bool) -> Examples:
    """Raises UsageError naming the line, and what would be right there, for what is no labelled text."""
    names = OF_WORDS if by_word else OF_TEXTS
    texts: list[Any] = []
    labels: list[Any] = []
    for where, row in _rows(data):
        if set(row) != set(names):
            raise UsageError(
                f"{where} has {', '.join(map(str, row)) or 'nothing'}; give {' and '.join(names)}"
            )
        text, label = (row[name] for name in names)
        if not by_word:
            if not isinstance(text, str) or not text.strip():
                raise UsageError(f"{where}: text is {text!r}; give words")
            texts.append(text)
            labels.append(_number(where, label, classes))
            continue
        if not _are_words(text) or not isinstance(label, list) or len(label) != len(text):
            raise UsageError(f"{where}: give a list of words as tokens and a label for each of them")
        texts.append(text)
        labels.append([_number(where, one, classes) for one in label])
    return Examples(texts, labels)


def _rows(data: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, what stands there by name) of each example."""
    path = Path(data)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix.lower() in TABLES:
                table = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()], strict=True)
                for row in table:
                    where = f"--data {data}: line {table.line_num}"
                    if None in row or None in row.values():
                        raise UsageError(f"{where}: it has not as many columns as the first line")
                    yield where, row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"--data {data}: line {number}", _object(f"--data {data}: line {number}", line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--data {data}: it can't be read as labelled text ({error})") from error


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error}); give one object a line") from error
    if not isinstance(found, dict):
        raise UsageError(f"{where} is no object with {' and '.join(OF_TEXTS)}")
    return found


def _are_words(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and all(isinstance(w, str) and w.strip() for w in found)


def _number(where: str, label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    is_number = isinstance(label, int) and not isinstance(label, bool)
    if (is_number or (isinstance(label, str) and label.isdecimal())) and 0 <= int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise UsageError(
        f"{where}: label {label!r} is no class of the model; it has {shown}, or 0 to {len(classes) - 1}"
    )


def split(labels: Sequence[int]) -> tuple[Indices, Indices]:
    """(numbers for training, held out): a fifth of each class, at random with a fixed seed."""
    rng, kinds = np.random.default_rng(SPLIT_SEED), np.asarray(labels)
    members = [rng.permutation(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]
    shares = [round(len(m) / HELD_OUT) for m in members]
    train = [m[n:] for m, n in zip(members, shares, strict=True)]
    held_out = [m[:n] for m, n in zip(members, shares, strict=True)]
    return np.concatenate(train), np.concatenate(held_out)
