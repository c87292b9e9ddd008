"""Writes folders and files for the user atomically, and overwrites only what `nas` has written.

A folder contains a list of its files with their hashes; the hash of a single file is kept below `NAS_HOME`. Files that
are not listed, or were changed since, belong to the user: commands refuse to replace them. Output is written to a
folder `.nas-*` next to its destination and then exchanged with it, so a kill leaves either the old or the new one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.errors import UsageError
from nas.home import default_db, home

MARKER = ".nas.json"
BESIDE, NAME_BYTES = ".nas-", 8
CACHE = "__pycache__"  # Python's cache of the listed sources
OF_SQLITE = ("", "-wal", "-shm", "-journal")
AT_FDCWD, RENAME_EXCHANGE = -100, 2
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

Source = str | Path


def check_folder(
    folder: str | Path,
    overwrite: bool = False,
    *,
    sources: Sequence[Source] = (),
    db: str = "",
    option: str = "--out",
) -> Path:
    """The resolved path of a folder that may be written; long commands call it before their work.

    `sources` are the files and folders that the command reads, `db` is the database it uses. Raises UsageError if the
    folder is not empty and `overwrite` is not set, if it holds anything that `nas` did not write, if it is or contains
    the current folder, a source, a database or `NAS_HOME`, and if it is inside a source.
    """
    place = Path(folder).resolve()
    for what, kept in _kept(db, sources):
        if place == kept or place in kept.parents:
            raise UsageError(f"{option} {folder}: it is or holds {what} {kept}; name another folder")
    for source in filter(str, sources):
        if Path(source).resolve() in place.parents:
            raise UsageError(
                f"{option} {folder}: it is inside {source}, which is read; name a folder elsewhere"
            )
    if place.is_dir():
        if not any(place.iterdir()):
            return place
        if not overwrite:
            raise UsageError(
                f"{option} {folder}: the folder is not empty; name another one, or add --overwrite"
            )
        _check_is_ours(place, f"{option} {folder}")
    elif place.exists():
        raise UsageError(f"{option} {folder}: this is a file; name a folder")
    return place


@contextmanager
def replace_folder(
    folder: str | Path,
    overwrite: bool = False,
    *,
    sources: Sequence[Source] = (),
    db: str = "",
    option: str = "--out",
) -> Iterator[Path]:
    """Yields an empty folder of the same name to write to; on exit without an error it replaces `folder`.

    Raises UsageError like `check_folder`, and if the disk can't be written.
    """
    place = check_folder(folder, overwrite, sources=sources, db=db, option=option)
    with _disk_errors(option, folder), _beside(place.parent) as aside:
        new = aside / place.name
        new.mkdir()
        yield new
        _mark(new)
        check_folder(folder, overwrite, sources=sources, db=db, option=option)
        _put(new, place)


def check_file(
    path: str | Path,
    overwrite: bool = False,
    *,
    sources: Sequence[Source] = (),
    db: str = "",
    option: str = "--out",
) -> Path:
    """The resolved path of a file that may be written.

    Raises UsageError if it exists and `overwrite` is not set or `nas` did not write it, if its folder does not exist,
    and if it is a source or a database.
    """
    place = Path(path).resolve()
    for what, kept in _kept(db, sources):
        if place == kept:
            raise UsageError(f"{option} {path}: this is {what} {kept}; name another file")
    if place.is_dir():
        raise UsageError(f"{option} {path}: this is a folder; name a file")
    if not place.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {place.parent} does not exist; name one that does")
    if place.exists():
        if not overwrite:
            raise UsageError(f"{option} {path}: exists already; add --overwrite, or choose another file")
        if not place.is_file() or _digest(place) not in _written(place):
            raise UsageError(
                f"{option} {path}: nas did not write this file, or it was changed since, so it is not replaced; "
                f"choose another file, or move it away"
            )
    return place


def replace_file(
    path: str | Path,
    write: Callable[[Path], object],
    overwrite: bool = False,
    *,
    sources: Sequence[Source] = (),
    db: str = "",
    option: str = "--out",
) -> None:
    """Call `write` with a temporary path of the same suffix, then atomically replace the file at `path` by it.

    Raises UsageError like `check_file`, and if the disk can't be written.
    """
    place = check_file(path, overwrite, sources=sources, db=db, option=option)
    with _disk_errors(option, path), _beside(place.parent) as aside:
        new = aside / f"new{place.suffix}"
        write(new)
        check_file(path, overwrite, sources=sources, db=db, option=option)
        hashes = [_digest(p) for p in (place, new) if p.exists()]
        with suppress(OSError):  # without a recorded hash the file will never be replaced
            note = _note(place)
            note.parent.mkdir(parents=True, exist_ok=True)
            put_text(note, "\n".join(hashes))
        new.replace(place)


def put_text(path: Path, text: str) -> None:
    """Atomically write a text file in a folder of this program."""
    new = path.with_name(f"{path.name}{BESIDE}{secrets.token_hex(NAME_BYTES)}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _kept(db: str, sources: Sequence[Source]) -> Iterator[tuple[str, Path]]:
    """(description, path) of everything that no command may replace."""
    from studies.database import file_of

    yield "the current folder", Path.cwd()
    yield "the folder of supernets and profiles (NAS_HOME)", home().resolve()
    for url in {db or default_db(), default_db()}:
        file = file_of(url)
        if file is not None:
            yield from (("the database", Path(f"{file.resolve()}{end}")) for end in OF_SQLITE)
    for source in filter(str, sources):
        yield "the source", Path(source).resolve()


def _check_is_ours(place: Path, asked: str) -> None:
    """Raises UsageError naming the first file of a folder that `nas` did not write."""
    remedy = "only files written by nas are replaced: name another folder, or move that away"
    try:
        listed: dict[str, str] = json.loads((place / MARKER).read_text(encoding="utf-8"))["files"]
        folders = {parent for name in listed for parent in Path(name).parents}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{asked}: nas did not write this folder (it lacks a readable {MARKER}); {remedy}"
        ) from None
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place)
        if path.is_dir() and not path.is_symlink():
            if inside.name != CACHE and inside not in folders:
                raise UsageError(f"{asked}: nas did not make the folder {inside} in it; {remedy}")
        elif inside != Path(MARKER) and not _is_cache(inside, listed):
            if path.is_symlink() or str(inside) not in listed:
                raise UsageError(f"{asked}: nas did not write {inside} in it; {remedy}")
            if not path.is_file() or _digest(path) != listed[str(inside)]:
                raise UsageError(f"{asked}: {inside} in it was changed since nas wrote it; {remedy}")


def _is_cache(inside: Path, listed: dict[str, str]) -> bool:
    source = inside.parent.parent / f"{inside.name.split('.')[0]}.py"
    return inside.parent.name == CACHE and inside.suffix == ".pyc" and str(source) in listed


def _mark(folder: Path) -> None:
    """Write the list of the folder's files and their hashes, and give them the mode of new files."""
    mode = folder.stat().st_mode & 0o666
    found = {}
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
        path.chmod(mode)
        found[str(path.relative_to(folder))] = _digest(path)
    (folder / MARKER).write_text(json.dumps({"written_by": "nas", "files": found}, indent=1) + "\n")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(place: Path) -> Path:
    return home() / "written" / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def _written(place: Path) -> list[str]:
    """Hashes of what was written to `place`: the last one and the one before, which a kill may have left in place."""
    note = _note(place)
    return note.read_text(encoding="utf-8").split() if note.is_file() else []


@contextmanager
def _beside(parent: Path) -> Iterator[Path]:
    """Yields a new folder in `parent` and deletes it on exit; first deletes those that killed commands left behind.

    Each command holds a lock on its folder, which the system releases when the process ends.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(BESIDE + "[0-9a-f]" * 2 * NAME_BYTES):
        _clear(left)
    aside = parent / f"{BESIDE}{secrets.token_hex(NAME_BYTES)}"
    aside.mkdir()
    holder = os.open(aside, os.O_RDONLY)
    try:
        with suppress(OSError):  # if folders can't be locked, none is ever deleted by others
            fcntl.flock(holder, fcntl.LOCK_EX)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(holder)


def _clear(left: Path) -> None:
    with suppress(OSError):
        holder = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for old in left.glob("old/*"):
                if not (left.parent / old.name).exists():
                    old.rename(left.parent / old.name)
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(holder)


def _put(new: Path, place: Path) -> None:
    """Move `new` to `place`; a former folder there moves to where `new` was, or next to it."""
    try:
        new.rename(place)  # over nothing, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(new, place):
            old = new.parent / "old" / place.name
            old.parent.mkdir()
            place.rename(old)  # if killed before the next line, `_clear` moves the old folder back
            new.rename(place)


def _exchange(one: Path, other: Path) -> bool:
    """Atomically exchange two folders; False if the system or the file system does not support it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _disk_errors(option: str, path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise UsageError(
            f"{option} {path}: can't be written ({error.strerror or error}{where}); nothing was changed there"
        ) from error
