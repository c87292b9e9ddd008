"""What commands write: only over what `nas` wrote, and whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nas.errors import UsageError
from nas.files import MARKER, check_file, check_folder, replace_file, replace_folder


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "kept" / "home"))
    monkeypatch.setenv("NAS_DB", f"sqlite:///{tmp_path}/base/nas.db")


def write(folder: Path, text: str, overwrite: bool = False) -> None:
    with replace_folder(folder, overwrite) as new:
        (new / "inner").mkdir()
        for name in ("a.txt", "inner/b.py"):
            (new / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Of every file below, by its path; not the list of files."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MARKER]
    return {str(p.relative_to(folder)): p.read_text() for p in files}


def both(text: str) -> dict[str, str]:
    return {"a.txt": text, "inner/b.py": text}


def test_a_folder_of_ours_is_replaced_when_that_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "net"
    write(folder, "old")
    with pytest.raises(UsageError, match="--overwrite"):
        write(folder, "new")
    assert contents(folder) == both("old")
    cache = folder / "inner" / "__pycache__"
    cache.mkdir()
    (cache / "b.cpython-311.pyc").write_bytes(b"Python's own")
    write(folder, "new", overwrite=True)
    assert contents(folder) == both("new")
    assert [p.name for p in folder.parent.iterdir()] == ["net"]


@pytest.mark.parametrize("name", ["nas.db", "inner/notes.txt", "inner/__pycache__/other.pyc", "empty/"])
def test_a_file_that_nas_did_not_write_stays_and_refuses(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "net"
    write(folder, "old")
    path = folder / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with pytest.raises(UsageError, match=name.split("/")[0]):
        write(folder, "new", overwrite=True)
    assert path.exists()
    assert contents(folder) == both("old") | ({} if path.is_dir() else {name: "mine"})


def test_a_file_that_was_changed_or_replaced_by_a_link_is_the_users(tmp_path: Path) -> None:
    for number, change in enumerate(
        (lambda p: p.write_text("edited"), lambda p: (p.unlink(), p.symlink_to(tmp_path / "mine")))
    ):
        folder = tmp_path / f"net{number}"
        write(folder, "old")
        change(folder / "a.txt")
        with pytest.raises(UsageError, match=r"a\.txt"):
            write(folder, "new", overwrite=True)


@pytest.mark.parametrize("marker", [None, "", "[]", '{"files": 3}', '{"files": {"a.txt": "0"}}'])
def test_a_folder_without_a_true_list_is_not_ours(tmp_path: Path, marker: str | None) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    if marker is not None:
        (folder / MARKER).write_text(marker)
    with pytest.raises(UsageError, match="move that away"):
        write(folder, "new", overwrite=True)
    assert (folder / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "out", [".", "..", "", "/", "../base", "../kept/home", "../kept", "../texts", "../texts/in"]
)
def test_folders_that_hold_what_is_needed_are_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "texts").mkdir()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="--out"):
            check_folder(out, overwrite, sources=[tmp_path / "texts", ""])
    with pytest.raises(UsageError, match="other"):
        check_folder("../other", db=f"sqlite:///{tmp_path}/other/b.db")


def test_an_empty_folder_and_a_link_to_a_folder_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    write(tmp_path / "link", "one")
    write(tmp_path / "link", "two", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "there") == both("two")


def test_what_fails_while_it_is_written_leaves_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    write(folder, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fails_while_written(folder, error)
    with pytest.raises(UsageError, match="No space left"), replace_folder(folder, True):
        Path("/dev/full").write_bytes(bytes(10_000))
    assert contents(folder) == both("old")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".nas-")] == []


def fails_while_written(folder: Path, error: type[BaseException]) -> None:
    with replace_folder(folder, True) as new:
        (new / "a.txt").write_text("new")
        raise error


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replace_folder(tmp_path / "net") as new:
            (new / "a").touch(mode=0o600)
        replace_file(tmp_path / "b.csv", lambda p: p.write_text("x"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("net", "net/a", f"net/{MARKER}", "b.csv")]
    assert modes == [0o750, 0o640, 0o640, 0o640]


def test_a_file_is_replaced_only_when_asked_and_only_as_nas_left_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    replace_file(path, lambda p: p.write_text("one"))
    with pytest.raises(UsageError, match="--overwrite"):
        replace_file(path, lambda p: p.write_text("two"))
    replace_file(path, lambda p: p.write_text("two"), overwrite=True)
    assert path.read_text() == "two"
    path.write_text("edited")
    (tmp_path / "thesis.csv").write_text("mine")
    for kept in (path, tmp_path / "thesis.csv"):
        before = kept.read_text()
        with pytest.raises(UsageError, match=str(kept)):
            replace_file(kept, lambda p: p.write_text("three"), overwrite=True)
        assert kept.read_text() == before


@pytest.mark.parametrize(
    "out", ["../base/nas.db", "../base/nas.db-wal", "../text.txt", "..", "../no/where", "/dev/null"]
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, out: str) -> None:
    with pytest.raises(UsageError, match="--out"):
        check_file(out, overwrite=True, sources=[tmp_path / "text.txt"])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    replace_file(path, lambda p: p.write_text("old"))
    with pytest.raises(UsageError, match="No space left"):
        replace_file(path, lambda p: Path("/dev/full").write_bytes(bytes(10_000)), overwrite=True)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if "." in p.name) == ["table.csv"]


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    write(folder, "0")
    seen, text = set(), "0"
    for moment in range(1, 1000):
        if not killed_at(moment, partial(write, folder, str(moment), overwrite=True)):
            break
        found = contents(folder)
        assert found in (both(text), both(str(moment))), moment
        seen.add(found == both(str(moment)))
        text = found["a.txt"]
    assert seen == {True, False}
    write(folder, "last", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "net"]


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    replace_file(path, lambda p: p.write_text("old"))
    for moment in range(1, 1000):
        if not killed_at(moment, lambda: replace_file(path, lambda p: p.write_text("new"), overwrite=True)):
            break
        assert path.read_text() in ("old", "new")
        replace_file(path, lambda p: p.write_text("old"), overwrite=True)
    assert moment > 5


def test_where_folders_cannot_change_places_a_kill_is_mended_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.files._exchange", lambda one, other: False)
    folder = tmp_path / "net"
    write(folder, "old")
    gaps = 0
    for moment in range(1, 1000):
        if not killed_at(moment, lambda: write(folder, "new", overwrite=True)):
            break
        gaps += not folder.exists()
        write(tmp_path / f"other{moment}", "x")
        assert contents(folder) in (both("old"), both("new"))
    assert gaps
    assert contents(folder) == both("new")


def killed_at(moment: int, work: Callable[[], object]) -> bool:
    """Do `work` in a copy of this process that is killed before its `moment`-th change of a file.

    False where it came to its end.
    """
    child = os.fork()
    if child == 0:
        left = [moment]

        def count(event: str, arguments: tuple[object, ...]) -> None:
            if event.startswith(("os.", "shutil.", "ctypes.")) or (event == "open" and arguments[1] != "r"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_the_list_names_every_file_with_its_hash(tmp_path: Path) -> None:
    write(tmp_path / "net", "abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of abc, FIPS 180-2
    listed = json.loads((tmp_path / "net" / MARKER).read_text())["files"]
    assert listed == {"a.txt": digest, "inner/b.py": digest}
