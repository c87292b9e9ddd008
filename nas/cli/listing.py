"""Prints a listing as JSON or as a table. The library that draws tables is imported only for a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def listing(
    as_json: bool,
    document: Any,
    header: Sequence[str],
    lines: Sequence[Sequence[Any]],
    empty: str = "nothing to show",
) -> int:
    """Print the document or the table; returns the exit status 0."""
    if as_json:
        print(json.dumps(document))
        return 0
    from nas.cli.display import table

    table(header, lines, empty)
    return 0
