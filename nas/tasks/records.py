"""Reads users' rows: JSON lines, CSV and TSV with a header line, Parquet, and folders saved by the package datasets.

    text                          a document
    prompt, completion            a text of which only the completion is predicted
    text, label                   a text and its class
    tokens, labels                a list of words and a list of their classes; not in CSV and TSV
    sentence1, sentence2, score   two texts and a number for their similarity

A source is a file, a folder of such files, or a folder written by `save_to_disk` of datasets. The column names of its
first row determine its kind; other columns are ignored and named in `Rows.about`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UsageError
from nas.tasks.base import Indices

JSON_LINES, TABLES, PARQUET = (".jsonl", ".json"), {".csv": ",", ".tsv": "\t"}, (".parquet",)
SUFFIXES = (*JSON_LINES, *TABLES, *PARQUET)
Names = tuple[str, ...]
TEXT: Names = ("text",)
COMPLETION: Names = ("prompt", "completion")
OF_TEXTS: Names = ("text", "label")
OF_WORDS: Names = ("tokens", "labels")
PAIR: Names = ("sentence1", "sentence2", "score")
KINDS = (TEXT, COMPLETION, OF_TEXTS, OF_WORDS, PAIR)
STATE, SPLITS = "state.json", "dataset_dict.json"  # files of a folder written by datasets
HELD_OUT_SPLITS = ("validation", "test")
SPLIT_SEED = 0
LONGEST_FIELD = 2**31 - 1  # characters of a table cell, which may hold a document
_TEXTS = {"text", "prompt", "completion", "sentence1", "sentence2"}
_MAY_BE_EMPTY = {"prompt"}

Row = tuple[str, dict[str, Any]]  # its location for error messages, and its values by column name


@dataclass(frozen=True)
class Rows:
    """Rows with the columns `names`; if `held_out` is empty, `parts` splits `rows`. `about` describes the source."""

    names: Names
    rows: Sequence[Row]
    held_out: Sequence[Row]
    about: str

    def parts(self) -> tuple[list[Row], list[Row], str]:
        """(training rows, held-out rows, description): the data's own parts, else a random tenth is held out."""
        if self.held_out:
            return list(self.rows), list(self.held_out), "held out: a part of the data"
        train, held_out = split([0] * len(self.rows), 10)
        seen, kept = ([self.rows[i] for i in sorted(numbers)] for numbers in (train, held_out))
        return seen, kept, "held out: a tenth of them, at random"


def is_rows(data: str) -> bool:
    """Whether the path `data` holds rows, judged only by the suffixes of file names."""
    path = Path(data)
    if data and isdir(path):
        return _is_saved(path) or {p.suffix.lower() in SUFFIXES for p in files_of(path)} == {True}
    return path.suffix.lower() in SUFFIXES


def read_rows(data: str, kinds: Sequence[Names]) -> Rows:
    """The rows of `data`, with the columns of the first of `kinds` that its first row has.

    Raises UsageError naming the file, the line and what is valid if a row can't be read or lacks a column.
    """
    source = Path(data)
    saved = _is_saved(source)
    train, held_out = _saved_parts(data, source) if saved else (_all(data, source), iter(()))
    rows = list(train)
    names = _names_of(f"--data {data}", rows, kinds)
    found, kept = ([(at, _values(at, row, names)) for at, row in part] for part in (rows, held_out))
    unread = sorted(set(map(str, rows[0][1])) - set(names))
    about = f"{len(found) + len(kept)} rows of {data} (licence not known)"
    if unread:
        about += f", their {', '.join(unread)} not read"
    return Rows(names, found, kept, about)


def kind_of(data: str, kinds: Sequence[Names]) -> Names:
    """The first of `kinds` whose columns the first row has; reads only that row. Raises UsageError if there is none."""
    source = Path(data)
    rows = _saved_parts(data, source)[0] if _is_saved(source) else _all(data, source)
    return _names_of(f"--data {data}", list(islice(rows, 1)), kinds)


def texts_of(path: Path, data: str) -> list[str]:
    """The texts of the rows of one file in the folder `data`. Raises UsageError for a row without text."""
    rows = list(rows_of(path, data))
    _names_of(f"--data {data}: {path.name}", rows, [TEXT])
    return [_values(where, row, TEXT)["text"] for where, row in rows]


def _names_of(whose: str, rows: Sequence[Row], kinds: Sequence[Names]) -> Names:
    if not rows:
        raise UsageError(f"{whose}: it has no rows; give some with {_or(kinds)}")
    where, first = rows[0]
    for names in kinds:
        if set(names) <= set(first):
            return names
    raise UsageError(f"{where} has {', '.join(map(str, first)) or 'nothing'}; give {_or(kinds)}")


def split(labels: Sequence[int], part: int = 5) -> tuple[Indices, Indices]:
    """(training indices [N], held-out indices [M]): 1 / `part` of each class is held out, by a fixed seed."""
    rng, kinds = np.random.default_rng(SPLIT_SEED), np.asarray(labels)
    members = [rng.permutation(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]
    shares = [round(len(m) / part) for m in members]
    train = [m[n:] for m, n in zip(members, shares, strict=True)]
    held_out = [m[:n] for m, n in zip(members, shares, strict=True)]
    return np.concatenate(train), np.concatenate(held_out)


def rows_of(path: Path, data: str) -> Iterator[Row]:
    """The rows of one file. Raises UsageError if the file or a line can't be read."""
    kind = path.suffix.lower()
    whose = f"--data {data}" if path == Path(data) else f"--data {data}: {path.name}"
    try:
        if kind in PARQUET:
            for i, row in enumerate(_parquet(path, whose), 1):
                yield f"{whose}: row {i}", row
        elif kind in TABLES:
            yield from _table(path, whose, TABLES[kind])
        else:
            yield from _json(path, whose)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{whose}: it can't be read as rows ({error}); give {', '.join(SUFFIXES)} in UTF-8"
        ) from error


def _all(data: str, source: Path) -> Iterator[Row]:
    for path in files_of(source) if source.is_dir() else [source]:
        yield from rows_of(path, data)


def files_of(folder: Path) -> list[Path]:
    """Text files and files of rows below `folder`, sorted by path."""
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in (".txt", ".md", *SUFFIXES) and p.is_file()
    )


def _table(path: Path, whose: str, mark: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(LONGEST_FIELD)
        table = csv.DictReader(file, delimiter=mark, strict=True)
        names = list(table.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"{whose}: line 1 names {twice[0]!r} twice; give each column a distinct name")
        for row in table:
            where = f"{whose}: line {table.line_num}"
            if None in row or None in row.values():
                raise UsageError(f"{where}: it has more or fewer columns than the first line")
            yield where, row


def _json(path: Path, whose: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{whose}: line {number}"
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{where} is not JSON ({error}); give one object per line") from error
                if not isinstance(found, dict):
                    raise UsageError(f"{where} is no object; give one with {_or(KINDS)}")
                yield where, found


def _parquet(path: Path, whose: str) -> Iterator[dict[str, Any]]:
    arrow = _pyarrow(whose)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise UsageError(
            f"{whose}: it is no Parquet file ({error}); write it with pyarrow or pandas"
        ) from error


def _pyarrow(whose: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UsageError(f"{whose}: reading it needs the package pyarrow: pip install pyarrow") from None
    return pyarrow


def _is_saved(folder: Path) -> bool:
    return isfile(folder / STATE) or isfile(folder / SPLITS)


def _saved_parts(data: str, folder: Path) -> tuple[Iterator[Row], Iterator[Row]]:
    """(training rows, held-out rows) of a folder written by datasets; no held-out rows if it has only one split."""
    if not isfile(folder / SPLITS):
        return _saved(data, folder), iter(())
    names = _table_of(data, folder / SPLITS).get("splits")
    kept = next((n for n in HELD_OUT_SPLITS if isinstance(names, list) and n in names), None)
    if not isinstance(names, list) or "train" not in names:
        raise UsageError(f"--data {data}: {SPLITS} has the splits {names}; one of them must be train")
    return _saved(data, folder / "train"), _saved(data, folder / kept) if kept else iter(())


def _saved(data: str, folder: Path) -> Iterator[Row]:
    """The rows of one split, read from the Arrow files that its state names."""
    arrow = _pyarrow(f"--data {data}")
    files = _table_of(data, folder / STATE).get("_data_files")
    listed = files if isinstance(files, list) else []
    names = [str(f.get("filename")) for f in listed if isinstance(f, dict)]
    if not names or any(Path(n).name != n for n in names):
        raise UsageError(f"--data {data}: {folder.name}/{STATE} names no files; write it with save_to_disk")
    count = 0
    for name in names:
        try:
            with arrow.memory_map(str(folder / name)) as file:
                for batch in arrow.ipc.open_stream(file):
                    for row in batch.to_pylist():
                        count += 1
                        yield f"--data {data}: row {count} of {folder.name}", row
        except (arrow.ArrowException, OSError) as error:
            raise UsageError(
                f"--data {data}: {folder.name}/{name} can't be read ({error}); write it with save_to_disk"
            ) from error


def _table_of(data: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"--data {data}: {path.name} can't be read ({error}); write it with save_to_disk"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"--data {data}: {path.name} holds no object; write it with save_to_disk")
    return found


def _values(where: str, row: dict[str, Any], names: Names) -> dict[str, Any]:
    """The checked values of the columns `names`; labels are unchecked, because only the caller knows the classes."""
    missing = [name for name in names if row.get(name) is None]
    if missing:
        has = ", ".join(str(n) for n, value in row.items() if value is not None) or "nothing"
        raise UsageError(f"{where} has {has}; give {' and '.join(names)}")
    for name in names:
        value = row[name]
        if name in _TEXTS and not (isinstance(value, str) and (value.strip() or name in _MAY_BE_EMPTY)):
            raise UsageError(f"{where}: {name} is {value!r}; give a text that is not blank")
        if name in _TEXTS and any("\ud800" <= c <= "\udfff" for c in value):
            raise UsageError(
                f"{where}: {name} holds half of a character (a lone surrogate); give Unicode text"
            )
    found = {name: row[name] for name in names}
    if "score" in names:
        found["score"] = _score(where, row["score"])
    return found


def _score(where: str, value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"{where}: score is {value!r}; give a number")
    return found


def _or(kinds: Sequence[Names]) -> str:
    return ", or ".join(" and ".join(names) for names in kinds)
