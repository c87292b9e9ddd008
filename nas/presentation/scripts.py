"""The page's modules as one script, so that a browser asks once and not for each.

They are joined in the order of their imports by dropping imports and exports, so no two of them may give one name to
different things.
"""

from __future__ import annotations

import re
from importlib.resources import files

STATIC = files("nas").joinpath("service", "static")
IMPORT = re.compile(r"^import [^;]* from \"\./([\w.]+)\";\n", re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


def joined(entry: str) -> str:
    """The module `entry` after all that it imports."""
    texts: dict[str, str] = {}
    _add(entry, texts)
    return "\n".join(EXPORT.sub("", IMPORT.sub("", text)) for text in texts.values())


def _add(name: str, texts: dict[str, str]) -> None:
    text = STATIC.joinpath(name).read_text(encoding="utf-8")
    for needed in IMPORT.findall(text):
        if needed not in texts:
            _add(needed, texts)
    texts[name] = text
