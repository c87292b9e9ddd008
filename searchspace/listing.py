"""The list of operators for whatever must not load torch: `python -m searchspace.listing` writes operators.json."""

from __future__ import annotations

import json
from pathlib import Path

from searchspace import registry

PATH = Path(__file__).with_name("operators.json")


def listing() -> str:
    """Every operator as JSON text, by slot and name."""
    entries = [
        entry.to_json() | {"file": registry.module_of(slot, name).replace(".", "/") + ".py"}
        for (slot, name), entry in sorted(registry.operators().items())
    ]
    return json.dumps(entries, indent=1) + "\n"


def write() -> None:
    PATH.write_text(listing(), encoding="utf-8")


if __name__ == "__main__":
    write()
