"""Numbers and names that people write, in files, requests and options: read in one way, refused in one sentence.

Each function raises ValueError with what was given, the value, and what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

LARGEST = 2**63 - 1  # of the integers that databases and generators of random numbers take
SHOWN = 60  # characters of a value that an error repeats
MANY = 30  # names that are listed beside the nearest one


def whole(where: str, value: object, least: int = 0, most: int = LARGEST) -> int:
    """`value` where it is an integer from `least` to `most`. `where` names it in the error: an option, a key of a file.

    True and 2.0 are no integers.
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
    """`value` as a float, where it is a finite number, greater than `above`, from `least` to `most`."""
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
    """`value` where it is text."""
    if isinstance(value, str):
        return value
    raise ValueError(f"{where} {shown(value)}: give text in quotes")


def words(where: str, value: object) -> list[str]:
    """`value` where it is a list of texts."""
    if isinstance(value, list | tuple):
        return [word(where, item) for item in value]
    raise ValueError(f"{where} {shown(value)}: give a list of texts")


def section(where: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """`data[where]` where it is a table of a TOML file or an object of JSON."""
    value = data[where]
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"{where} {shown(value)}: give a table, [{where}]")


def bounds(name: str, lower: object, upper: object) -> tuple[float | None, float | None]:
    """Both sides of a bound on the quantity `name`, where None leaves one open; they may not contradict each other."""
    low, high = (
        None if side is None else real(f"the {end} bound on {name}", side)
        for end, side in (("lower", lower), ("upper", upper))
    )
    if low is not None and high is not None and low > high:
        raise ValueError(f"the bounds on {name} contradict: at least {low:g}, at most {high:g}")
    return low, high


def unknown(name: str, known: Iterable[str], what: str = "") -> str:
    """The end of a sentence on a name that does not exist: what it may have meant, and what there is."""
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(name, names, n=1)
    start = f"unknown {what} {shown(name)!r}".replace("  ", " ")
    guess = f"; did you mean {near[0]}?" if near else ""
    if near and len(names) > MANY:
        return start + guess
    return f"{start}{guess or ';'} known: {', '.join(names) or 'none'}"


def shown(value: object) -> str:
    """As an error repeats it: printable, on one line, cut where it is long."""
    try:
        text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
