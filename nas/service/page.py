"""The page's files, read into memory once; a path is only looked up among their names, so no other file is served.

The page's own modules are joined to one file, app.js. Files are compressed once, since most of the time of a first
visit is spent on loading the chart library.
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
    """Whether a URL's path is that of a file of the page."""
    return path.removeprefix("/") in _FILES


@router.get("/{name:path}")
@router.head("/{name:path}")
async def page(request: Request, name: str) -> Response:
    """A file of the page, compressed if the client accepts it. 404 for any other name."""
    if name not in _FILES:
        raise HTTPException(404, "there is no such address")
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{_TAGS[name]}{"-gzip" if is_packed else ""}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if is_packed:  # for other responses the middleware sets it
        headers["Vary"] = "Accept-Encoding"
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    kind = guess_type(name or "index.html")[0] or "text/plain"
    return Response((_PACKED if is_packed else _FILES)[name], media_type=kind, headers=headers)
