"""Joins the page's JavaScript modules to one script, so that a browser makes a single request.

Imports and exports are dropped and modules ordered by their imports, so no two modules may define the same name.
"""

from __future__ import annotations

import re
from importlib.resources import files

STATIC = files("nas").joinpath("service", "static")
IMPORT = re.compile(r"^import [^;]* from \"\./([\w.]+)\";\n", re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


def joined(entry: str) -> str:
    """The text of the module `entry`, behind that of all modules that it imports."""
    texts: dict[str, str] = {}
    _add(entry, texts)
    return "\n".join(EXPORT.sub("", IMPORT.sub("", text)) for text in texts.values())


def _add(name: str, texts: dict[str, str]) -> None:
    text = STATIC.joinpath(name).read_text(encoding="utf-8")
    for needed in IMPORT.findall(text):
        if needed not in texts:
            _add(needed, texts)
    texts[name] = text
