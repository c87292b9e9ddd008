"""A study as a table for other programs: one row for each trial, one column for each decision of the space."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.records import Study, Trial
from studies.rows import numbers_to_json, study_to_row

FIELDS = (
    "number",
    "state",
    "arch_id",
    "origin",
    "fidelity",
    "worker",
    "started_at",
    "finished_at",
    "seconds",
    "error",
)


def table(study: Study, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return rows with equal columns; None for a missing value or a decision that does not apply to the trial."""
    encoding = Encoding(SpaceSpec.from_json(study.space))
    names = [o.name for o in study.objectives]
    return [
        {f: getattr(t, f) for f in FIELDS}
        | {"parents": " ".join(map(str, t.parents))}
        | {name: numbers_to_json(t.values).get(name) for name in names}
        | {f"violation:{name}": t.violations.get(name) for name in names}
        | {f"decision:{name}": value for name, value in decisions(encoding, t).items()}
        for t in trials
    ]


def decisions(encoding: Encoding, trial: Trial) -> dict[str, Any]:
    """Return the decisions of an architecture by variable name; None for those that do not apply to it."""
    genome = encoding.encode(ArchSpec.from_json(trial.arch))
    exists = encoding.in_use(np.array([genome]))[0]
    return {
        v.name: plain(v.values[gene]) if used else None
        for v, gene, used in zip(encoding.variables, genome, exists, strict=True)
        if len(v.values) > 1
    }


def plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def write_csv(path: Path, study: Study, trials: Sequence[Trial]) -> None:
    rows = table(study, trials)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else list(FIELDS))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, study: Study, trials: Sequence[Trial]) -> None:
    """Write the study and its trials as stored in the database, including architectures."""
    columns = ("values", "violations")
    found = [vars(t) | {c: numbers_to_json(getattr(t, c)) for c in columns} for t in trials]
    path.write_text(json.dumps({"study": study_to_row(study), "trials": found}, allow_nan=False) + "\n")


def write_parquet(path: Path, study: Study, trials: Sequence[Trial]) -> None:
    """Write the table as Parquet. Raises ValueError where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError(
            "--format parquet needs the package pyarrow: pip install pyarrow, or take csv"
        ) from None
    parquet.write_table(pyarrow.Table.from_pylist(table(study, trials)), path)


WRITERS: dict[str, Callable[[Path, Study, Sequence[Trial]], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
