"""The list of operators: `python -m searchspace.listing` writes operators.json, for whatever must not load torch, and
README.md, for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from searchspace import registry

PATH = Path(__file__).with_name("operators.json")
README = Path(__file__).with_name("README.md")
INTRODUCTION = """# Operators

Generated from the registry by `python -m searchspace.listing`. Letters: B batch, T tokens (queries), S keys, D model
width, G key/value groups, R query heads per group, H = G R heads, K key dim, V value dim, F ffn width, N features or
state, M codes or summaries, P rank, w window. Complexity counts multiply-adds of one sequence, state what one sequence
keeps for decoding, both up to a constant.
"""
PLURALS = {"mixer": "Token mixers", "ffn": "Channel mixers (ffn)", "norm": "Norms"}


def entries() -> list[dict[str, Any]]:
    """Every operator by slot and name, with the file that it stands in."""
    return [
        entry.to_json() | {"file": registry.module_of(slot, name).replace(".", "/") + ".py"}
        for (slot, name), entry in sorted(registry.operators().items())
        if registry.module_of(slot, name).startswith("searchspace.")
    ]


def listing() -> str:
    return json.dumps(entries(), indent=1) + "\n"


def readme() -> str:
    """A table for each slot."""
    found = entries()
    sections = [INTRODUCTION]
    for slot in registry.SLOTS:
        rows = [_line(e) for e in found if e["slot"] == slot and e["name"] != "none"]
        if rows:
            head = f"| operator | paper | kinds | complexity | state | choices |\n|{' --- |' * 6}\n"
            title = PLURALS.get(slot, slot.replace("_", " ").capitalize())
            sections.append(f"## {title}\n\n{head}" + "".join(rows))
    return "\n".join(sections)


def _line(entry: dict[str, Any]) -> str:
    choices = "; ".join(f"{name}: {_values(domain)}" for name, domain in entry["choices"].items())
    path = entry["file"].removeprefix("searchspace/")
    cells = (
        f"[{entry['name']}]({path})",
        entry["paper"],
        ", ".join(entry["kinds"]),
        entry["complexity"],
        entry["state"],
        choices,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _values(domain: Any) -> str:
    return ", ".join(map(str, domain["candidates"] if isinstance(domain, dict) else domain))


def write() -> None:
    PATH.write_text(listing(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    write()
