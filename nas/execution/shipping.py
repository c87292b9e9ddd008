"""Packs files and folders that a judge reads, to copy them to other machines.

Each is unpacked once per machine, in a folder under NAS_HOME named by the hash of its content.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.home import home


def this_host() -> str:
    return socket.gethostname()


def pack(path: Path) -> bytes:
    """A tar archive of a file or folder, with equal bytes for equal names and contents."""
    buffer = io.BytesIO()
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(str(Path(path.name, file.relative_to(path))))
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return buffer.getvalue()


def unpack(content: bytes) -> Path:
    """Unpack an archive of `pack` unless that was done before; returns the path of the file or folder."""
    folder = home() / "shipped" / hashlib.sha256(content).hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = tempfile.mkdtemp(dir=folder.parent)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(part, filter="data")
        try:
            os.rename(part, folder)
        except OSError:  # another process of this machine was first
            shutil.rmtree(part)
    return next(folder.iterdir())


def moved(settings: Any, places: Mapping[str, str]) -> Any:
    """A copy of JSON `settings` where every string that is a key of `places` is replaced by its value."""
    if isinstance(settings, dict):
        return {name: moved(value, places) for name, value in settings.items()}
    if isinstance(settings, list):
        return [moved(value, places) for value in settings]
    return places.get(settings, settings) if isinstance(settings, str) else settings
