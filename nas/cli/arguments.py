"""Reading the values of options. Every error names the option, the value and what would be right."""

from __future__ import annotations

from collections.abc import Sequence

from nas.errors import UsageError

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def minutes(text: str | None, option: str = "--time") -> float | None:
    """`90s`, `30m` or `2h` in minutes."""
    if text is None:
        return None
    try:
        amount = float(text[:-1])
        if text[-1] in SECONDS and amount > 0:
            return amount * SECONDS[text[-1]] / 60
    except (ValueError, IndexError):
        pass
    raise UsageError(f"{option} {text}: give a number and s, m or h, such as 90s, 30m or 2h")


def bounds(at_least: Sequence[str], at_most: Sequence[str]) -> dict[str, tuple[float | None, float | None]]:
    """`q=v` texts of --min and --max as {quantity: (lower, upper)}."""
    lower, upper = (
        dict(_pair(option, t) for t in texts) for option, texts in (("--min", at_least), ("--max", at_most))
    )
    return {
        name: (lower.get(name), upper.get(name)) for name in [*lower, *(n for n in upper if n not in lower)]
    }


def _pair(option: str, text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise UsageError(f"{option} {text}: give a quantity and a number, such as latency=2.5") from None


def more_trials(text: str) -> int:
    """`+50` or `50`."""
    try:
        return int(text.removeprefix("+"))
    except ValueError:
        raise UsageError(f"--trials {text}: give how many more, such as +50") from None
