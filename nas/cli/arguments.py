"""Parsers for the values of options. Every error names the option, the value and what is valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from nas.errors import UsageError
from nas.request.options import LONGEST
from searchspace.spec.reading import real, shown

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
T = TypeVar("T")


def minutes(text: str | None, option: str = "--time") -> float | None:
    """A duration such as `90s`, `30m`, `2h30m` or `1d`, in minutes. Raises UsageError for any other text."""
    if text is None:
        return None
    parts = DURATION.findall(text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds <= LONGEST * 60:
        raise UsageError(
            f"{option} {shown(text)}: give numbers with s, m, h or d, such as 90s, 30m, 2h30m or 1d, "
            "of 100 years at most"
        )
    return seconds / 60


def bounds(at_least: Sequence[str], at_most: Sequence[str]) -> dict[str, tuple[float | None, float | None]]:
    """The `q=v` texts of --min and --max as {quantity: (lower, upper)}. Raises UsageError for a malformed text."""
    lower, upper = (
        once(option, (_pair(option, t) for t in texts))
        for option, texts in (("--min", at_least), ("--max", at_most))
    )
    return {
        name: (lower.get(name), upper.get(name)) for name in [*lower, *(n for n in upper if n not in lower)]
    }


def once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The (name, value) pairs of a repeatable option as a dict. Raises UsageError for a name that is given twice."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(
                f"{option} {shown(name)}: given twice, as {shown(found[name])} and as {shown(value)}; give it once"
            )
        found[name] = value
    return found


def _pair(option: str, text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), real("", float(value))
    except ValueError:
        raise UsageError(
            f"{option} {shown(text)}: give a quantity and a finite number, such as latency=2.5"
        ) from None
