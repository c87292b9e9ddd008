"""Validation of numbers and names from files, requests and options, with one sentence for what is wrong.

Each function raises ValueError with the name of the value, the value, and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

LARGEST = 2**63 - 1  # largest integer of databases and random number generators
SHOWN = 60  # characters of a value that an error repeats
MANY = 30  # known names listed after the nearest one


def whole(where: str, value: object, least: int = 0, most: int = LARGEST) -> int:
    """Return `value` if it is an integer from `least` to `most`, else raises ValueError; True and 2.0 are no integers.

    `where` names the value in the error: an option, a key of a file.
    """
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    right = f"of at least {least}" if most == LARGEST else f"from {least} to {most}"
    beyond = isinstance(value, int) and value > most == LARGEST
    raise ValueError(
        f"{where} {shown(value)}: give a whole number {right}{', and below 2^63' if beyond else ''}"
    )


def real(
    where: str, value: object, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> float:
    """Return a finite number greater than `above`, from `least` to `most`, as a float. Raises ValueError for others."""
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if math.isfinite(number) and above < number and least <= number <= most:
        return number
    ends = [
        f"above {above:g}" if above > -math.inf else "",
        f"of at least {least:g}" if least > -math.inf else "",
        f"of at most {most:g}" if most < math.inf else "",
    ]
    raise ValueError(
        f"{where} {shown(value)}: give a finite number {' and '.join(filter(None, ends))}".rstrip()
    )


def word(where: str, value: object) -> str:
    """Return `value` if it is text. Raises ValueError for other values."""
    if isinstance(value, str):
        return value
    raise ValueError(f"{where} {shown(value)}: give text in quotes")


def words(where: str, value: object) -> list[str]:
    """Return `value` as a list if it is a list of texts. Raises ValueError for other values."""
    if isinstance(value, list | tuple):
        return [word(where, item) for item in value]
    raise ValueError(f"{where} {shown(value)}: give a list of texts")


def section(where: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `data[where]` if it is a TOML table or a JSON object. Raises ValueError for other values."""
    value = data[where]
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"{where} {shown(value)}: give a table, [{where}]")


def bounds(name: str, lower: object, upper: object) -> tuple[float | None, float | None]:
    """Return both bounds on the quantity `name`, None for no bound. Raises ValueError where they contradict."""
    low, high = (
        None if side is None else real(f"the {end} bound on {name}", side)
        for end, side in (("lower", lower), ("upper", upper))
    )
    if low is not None and high is not None and low > high:
        raise ValueError(f"the bounds on {name} contradict: at least {low:g}, at most {high:g}")
    return low, high


def unknown(name: str, known: Iterable[str], what: str = "") -> str:
    """Return the end of a sentence on an unknown name: the nearest known names, and the list of them."""
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(name, names, n=1)
    start = f"unknown {what} {shown(name)!r}".replace("  ", " ")
    guess = f"; did you mean {near[0]}?" if near else ""
    if near and len(names) > MANY:
        return start + guess
    return f"{start}{guess or ';'} known: {', '.join(names) or 'none'}"


def shown(value: object) -> str:
    """Return a value as errors repeat it: printable, on one line, truncated."""
    try:
        text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    except ValueError:  # an integer with more digits than Python prints
        text = "of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
