"""The catalogue of published designs, and what implements each: operators, a structure, another part of the project.

`catalogue.csv` lists the designs, first the original LISTED ones, then later additions; an operator names the rows that
it implements in its entry, and so in operators.json. For a design without an operator the column `elsewhere` names, in
backquotes, the command, setting or function that provides it, or says that it is not built. Does not import torch.
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
    """One design. `operators` are (slot, name, file) of the entries that implement it."""

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
        """The operators as a space names them, each with its command, file and tests, then the text of `elsewhere`."""
        entries = [
            f'{slot} = "{name}" in a space, `nas ops {name}` ({file}; tests/searchspace/ops/test_{name}.py)'
            for slot, name, file in self.operators
        ]
        return "; ".join([*entries, self.elsewhere] if self.elsewhere else entries) or "MISSING"


def rows() -> list[Row]:
    """Return all designs in order."""
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
