"""Reads labelled rows (`nas.tasks.records`) and maps labels, the names or numbers of classes, to class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.tasks.base import Indices
from nas.tasks.records import OF_TEXTS, OF_WORDS, Rows, read_rows, split

MIN_LABELLED = 20  # texts, a fifth of which are held out


@dataclass(frozen=True)
class Examples:
    """Texts with the index of their class, or lists of words with one class index per word.

    `parts` are the indices of the training examples [N] and of the held-out ones [M]; `about` describes data and split.
    """

    texts: Sequence[Any]
    labels: Sequence[Any]
    parts: tuple[Indices, Indices]
    about: str

    @staticmethod
    def of(part: Indices, *columns: Sequence[Any]) -> list[list[Any]]:
        """The entries of each column at the indices `part` [N]."""
        return [[column[i] for i in part] for column in columns]


def read_examples(data: str, classes: Sequence[str], by_word: bool) -> Examples:
    """Labelled examples for a classifier with these `classes`; with `by_word` each word has a label.

    Raises UsageError naming the line of an invalid row and what is valid, and for too few rows.
    """
    rows = read_rows(data, [OF_WORDS if by_word else OF_TEXTS])
    every = [*rows.rows, *rows.held_out]
    if by_word:
        texts, labels = _words(every, classes)
    else:
        texts = [row["text"] for _, row in every]
        labels = [_number(where, row["label"], classes) for where, row in every]
    return _divided(data, texts, labels, rows)


def read_classes(data: str, count: int) -> Examples:
    """Labelled examples for a network with `count` unnamed classes: the sorted labels of the data are their names.

    Raises UsageError if the data does not have exactly `count` classes, or labels that are no numbers below `count`.
    """
    rows = read_rows(data, [OF_TEXTS])
    every = [*rows.rows, *rows.held_out]
    names = sorted({_class_name(where, row["label"]) for where, row in every})
    if len(names) < 2:
        raise UsageError(
            f"--data {data}: all of its {len(every)} rows have the label {names[0]}; give rows of at least two classes"
        )
    if all(name.isdecimal() and int(name) < count for name in names):
        names = list(map(str, range(count)))
    if len(names) != count:
        raise UsageError(
            f"--data {data}: it has {len(names)} classes ({', '.join(names[:10])}), the space's classifier "
            f"num_classes {count}; give both the same number"
        )
    labels = [names.index(str(row["label"])) for _, row in every]
    return _divided(data, [row["text"] for _, row in every], labels, rows)


def _divided(data: str, texts: list[Any], labels: list[Any], rows: Rows) -> Examples:
    """Examples split as the data is or, if it has one part, with a fifth of each class held out.

    Raises UsageError for too few texts.
    """
    if len(texts) < MIN_LABELLED:
        raise UsageError(f"--data {data}: it has {len(texts)} labelled texts; give at least {MIN_LABELLED}")
    if rows.held_out:
        order, count = np.arange(len(texts), dtype=np.int64), len(rows.rows)
        parts, how = (order[:count], order[count:]), "a part of the data"
    else:
        parts = split([0 if isinstance(label, list) else label for label in labels])
        how = "a fifth of each class"
    return Examples(texts, labels, parts, f"{rows.about}; held out: {how}")


def _words(rows: Sequence[tuple[str, dict[str, Any]]], classes: Sequence[str]) -> tuple[list[Any], list[Any]]:
    texts, labels = [], []
    for where, row in rows:
        text, given = row["tokens"], row["labels"]
        if not _are_words(text) or not isinstance(given, list) or len(given) != len(text):
            raise UsageError(f"{where}: give a list of words as tokens and a label for each of them")
        texts.append(text)
        labels.append([_number(where, one, classes) for one in given])
    return texts, labels


def _are_words(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and all(isinstance(w, str) and w.strip() for w in found)


def _class_name(where: str, label: Any) -> str:
    """The label as a string. Raises UsageError for an empty string, a list or a number that is not finite."""
    name = str(label)
    if not isinstance(label, str | int | float) or not name.strip() or name in ("nan", "inf", "-inf"):
        raise UsageError(f"{where}: label is {label!r}; give the name or the number of a class")
    return name


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
