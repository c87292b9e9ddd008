"""The page's files, read once and kept: an address is looked up among their names, so that it can name nothing else.

The modules of its own code are one file, app.js.
"""

from __future__ import annotations

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
_TAGS = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in _FILES.items()}


@router.get("/{name:path}")
@router.head("/{name:path}")
async def page(request: Request, name: str) -> Response:
    name = name or "index.html"
    if name not in _FILES:
        raise HTTPException(404, "there is no such page")
    headers = {"ETag": _TAGS[name], "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == _TAGS[name]:
        return Response(status_code=304, headers=headers)
    kind = guess_type(name)[0] or "text/plain"
    return Response(_FILES[name], media_type=kind, headers=headers)
