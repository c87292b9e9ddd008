"""Checks whether a proxy may gate the trials of a study: it must rank the space's networks better than size does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import studies

REPORT = "report.json"


def reports() -> Path:
    """The folder of the reports on the truth tables of the spaces."""
    return Path(studies.__path__[0]) / "results" / "truth"


def may_gate(space: str, proxy: str, folder: Path | None = None) -> str | None:
    """None if `proxy` may gate trials on `space`, else a sentence with the reason.

    It may if the whole confidence interval of its gain in Kendall tau over parameter count is positive.
    """
    path = (folder or reports()) / space / REPORT
    if not path.exists():
        return f"no networks of space {space} were trained alone: whether {proxy} ranks them is unknown"
    report = json.loads(path.read_text(encoding="utf-8"))
    found = {row["name"]: row for row in report["judgements"]}
    if proxy not in found:
        return f"the report on space {space} has no proxy {proxy!r}; it has: {', '.join(sorted(found))}"
    gain = found[proxy]["gain"]
    if gain is not None and gain["lower"] is not None and gain["lower"] > 0:
        return None
    return (
        f"{proxy} does not beat parameter count on space {space}: tau {_tau(found[proxy])} against "
        f"{_tau(found['parameters'])} on {found[proxy]['count']} networks trained alone"
    )


def _tau(row: dict[str, Any]) -> str:
    tau = row["overall"]["kendall"]
    if tau["value"] is None:
        return "undefined"
    return f"{tau['value']:.2f} [{tau['lower']:.2f}, {tau['upper']:.2f}]"
