"""The page's files, read once and kept: an address is looked up among their names, so that it can name nothing else.

The modules of its own code are one file, app.js. They are packed once, as most of what a first visit waits for is the
library of charts.
"""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources.abc import Traversable
from mimetypes import guess_type

from fastapi import APIRouter, HTTPException, Request, Response

from nas.presentation.scripts import STATIC, joined

router = APIRouter(include_in_schema=False)


def _read(folder: Traversable) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


_FILES = {name: content for name, content in _read(STATIC).items() if not name.endswith(".js")}
_FILES |= {f"vendor/{name}": content for name, content in _read(STATIC.joinpath("vendor")).items()}
_FILES["app.js"] = joined("main.js").encode()
_FILES[""] = _FILES["index.html"]
_PACKED = {name: gzip.compress(content, mtime=0) for name, content in _FILES.items()}
_TAGS = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in _FILES.items()}


def is_file(path: str) -> bool:
    """Whether the path of an address is that of a file of the page."""
    return path.removeprefix("/") in _FILES


@router.get("/{name:path}")
@router.head("/{name:path}")
async def page(request: Request, name: str) -> Response:
    if name not in _FILES:
        raise HTTPException(404, "there is no such address")
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{_TAGS[name]}{"-gzip" if is_packed else ""}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if is_packed:  # of what is not, the middleware says so
        headers["Vary"] = "Accept-Encoding"
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    kind = guess_type(name or "index.html")[0] or "text/plain"
    return Response((_PACKED if is_packed else _FILES)[name], media_type=kind, headers=headers)
