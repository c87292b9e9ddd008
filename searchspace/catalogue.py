"""The catalogue of published designs, and what answers each: operators, a structure, another part of the project.

`catalogue.csv` has the designs, the first LISTED those that the catalogue began with, then what was added since; an
operator names the rows it answers in its entry, and so in operators.json. What no operator answers says in the column
`elsewhere`, between backquotes, by which command, setting or function it is reached, or that it is not built. Loads no
torch.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LISTED = 125


@dataclass(frozen=True)
class Row:
    """One design. `operators` are (slot, name, file) of the entries that answer it."""

    row: int
    design: str
    kind: str
    key: str
    elsewhere: str
    operators: tuple[tuple[str, str, str], ...]

    @property
    def is_added(self) -> bool:
        return self.row > LISTED

    @property
    def answered(self) -> bool:
        return bool(self.operators or self.elsewhere)

    @property
    def answer(self) -> str:
        """How a user reaches it: the entries as a space names them, with the command that shows each, its file and the
        tests that prove it, then what else there is to say."""
        entries = [
            f'{slot} = "{name}" in a space, `nas ops {name}` ({file}; tests/searchspace/ops/test_{name}.py)'
            for slot, name, file in self.operators
        ]
        return "; ".join([*entries, self.elsewhere] if self.elsewhere else entries) or "MISSING"


def rows() -> list[Row]:
    """All designs in order."""
    entries = json.loads((FOLDER / "operators.json").read_text(encoding="utf-8"))
    with (FOLDER / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        designs = list(csv.DictReader(file))
    found = []
    for design in designs:
        number = int(design["row"])
        answering = tuple((e["slot"], e["name"], e["file"]) for e in entries if number in e["catalogue"])
        found.append(
            Row(number, design["design"], design["kind"], design["key"], design["elsewhere"], answering)
        )
    return found
