"""Conversion between records and rows, for fields that a column can't store directly.

A number that is not finite is stored as null and read as NaN: strict JSON has no NaN, and an infinite loss only means
that there is no usable number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.records import Objective, Outcome, Study, Trial
from studies.settings import Settings

Row = Mapping[Any, Any]
RESULT_FIELDS = (
    "number",
    "arch_id",
    "state",
    "values",
    "violations",
    "fidelity",
    "origin",
    "finished_at",
    "seconds",
)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def study_to_row(study: Study) -> dict[str, Any]:
    row = {**vars(study), "objectives": [o.to_json() for o in study.objectives]}
    row["settings"] = study.settings.to_json()
    row["created_at"] = study.created_at or now()
    row["tags"] = list(study.tags)
    del row["id"]
    return row


def study_from_row(row: Row) -> Study:
    objectives = tuple(Objective.from_json(o) for o in row["objectives"])
    told = {"objectives": objectives, "settings": Settings.from_json(row["settings"])}
    return Study(**{**row, **told, "tags": tuple(row["tags"])})


def trial_to_row(study_id: int, trial: Trial) -> dict[str, Any]:
    return {
        **vars(trial),
        "study_id": study_id,
        "values": numbers_to_json(trial.values),
        "violations": numbers_to_json(trial.violations),
        "parents": list(trial.parents),
    }


def trial_from_row(row: Row) -> Trial:
    return Trial(
        **{
            **row,
            "values": numbers_from_json(row["values"]),
            "violations": numbers_from_json(row["violations"]),
            "parents": tuple(row["parents"]),
        }
    )


def results_from_rows(found: Sequence[Sequence[Any]]) -> list[Trial]:
    """Return trials from rows with the columns RESULT_FIELDS, JSON as text; architectures are left empty."""
    # Parsed as one JSON document: a hundred thousand short ones take ten times as long.
    texts = (f"[{','.join(row[i] for row in found)}]" for i in (3, 4))
    values, violations = (_all_from_json(text) for text in texts)
    return [
        Trial(
            number,
            {},
            arch_id,
            state,
            these,
            those,
            fidelity,
            origin,
            finished_at=finished_at,
            seconds=seconds,
        )
        for (number, arch_id, state, _, _, fidelity, origin, finished_at, seconds), these, those in zip(
            found, values, violations, strict=True
        )
    ]


def outcome_to_row(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that finishing a trial sets; the worker is kept where the outcome names none."""
    row = {
        "state": outcome.state,
        "values": numbers_to_json(outcome.values),
        "violations": numbers_to_json(outcome.violations),
        "error": storable(outcome.error),
        "seconds": outcome.seconds,
        "finished_at": now(),
    }
    return row | ({"worker": outcome.worker} if outcome.worker else {})


def storable(text: str) -> str:
    """Return text that any database and terminal accepts: surrogates and zero bytes are escaped."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def measurement_to_row(measurement: Measurement) -> dict[str, Any]:
    numbers = {n: _finite(getattr(measurement, n)) for n in ("value", "p10", "p90", "reference")}
    return {**vars(measurement), **numbers, "workload": workload_to_text(measurement.workload)}


def measurement_from_row(row: Row) -> Measurement:
    value = math.nan if row["value"] is None else row["value"]
    return Measurement.from_json({**row, "value": value, "workload": json.loads(row["workload"])})


def workload_to_text(workload: Workload) -> str:
    """Return canonical JSON, so that equal workloads are equal texts."""
    return json.dumps(workload.to_json(), sort_keys=True, separators=(",", ":"))


def numbers_to_json(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in numbers.items()}


def numbers_from_json(data: Mapping[str, float | None]) -> dict[str, float]:
    if None in data.values():
        return {name: math.nan if value is None else value for name, value in data.items()}
    return dict(data)  # type: ignore[arg-type]


def _all_from_json(text: str) -> list[dict[str, float]]:
    found = json.loads(text)
    return list(map(numbers_from_json, found)) if "null" in text else found


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
