"""Adds the options of a schema (`nas.request.options`) to a command as flags, and reads the given ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from nas.cli.arguments import bounds, minutes, once
from nas.cli.parsers.base import amount, count
from nas.errors import UsageError
from nas.request.options import (
    Bounds,
    Kept,
    Minutes,
    Objectives,
    Option,
    Real,
    Switch,
    Texts,
    Whole,
    check_given,
    options_of,
)
from searchspace.spec.reading import shown

_REPEATED = (Bounds, Kept)


def add_options(command: argparse.ArgumentParser, schema: Any) -> None:
    """Add the flags of every option of `schema` to `command`. A flag that is not given is None."""
    for name, option in options_of(schema).items():
        for flag in option.flags:
            details: dict[str, Any] = {
                "dest": _place(name, flag, option),
                "default": None,
                "help": _about(flag, option),
                "required": option.default is ...,
            }
            if isinstance(option.kind, Switch):
                details["action"] = "store_true"
            else:
                details |= {"metavar": option.metavar, "type": _reader(flag, option)}
                is_repeated = isinstance(option.kind, Texts) and option.kind.is_repeated
                if is_repeated or isinstance(option.kind, _REPEATED):
                    details["action"] = "append"
            command.add_argument(flag, **details)


def given(schema: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The values of the given flags by option name. Raises UsageError for an empty or invalid value."""
    found = {}
    for name, option in options_of(schema).items():
        values = [getattr(options, _place(name, flag, option)) for flag in option.flags]
        for flag, value in zip(option.flags, values, strict=True):
            check_given(flag, value, option.right or "a value")
        if any(value is not None for value in values):
            found[name] = _put_together(option, values)
    return found


def _about(flag: str, option: Option) -> str:
    if not isinstance(option.kind, Bounds):
        return option.about
    return f"{'lower' if flag == option.flags[0] else 'upper'} {option.about}"


def _place(name: str, flag: str, option: Option) -> str:
    return name if len(option.flags) == 1 else flag.removeprefix("--")


def _reader(flag: str, option: Option) -> Callable[[str], Any]:
    kind = option.kind
    if isinstance(kind, Whole):
        return count(kind.least, kind.most)
    if isinstance(kind, Real):
        return amount(kind.least, kind.most, kind.above)
    if isinstance(kind, Minutes):
        return lambda text: minutes(text, flag)
    if isinstance(kind, Texts) and not kind.is_repeated:
        return _names
    if isinstance(kind, Objectives):
        return _objectives
    if isinstance(kind, Bounds | Kept | Texts):
        return str
    return lambda text: option.checked(flag, text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _objectives(text: str) -> list[str]:
    from nas.evaluation.objective_syntax import split

    return split(text)


def _put_together(option: Option, values: Sequence[Any]) -> Any:
    if isinstance(option.kind, Bounds):
        lower, upper = values
        return option.checked(", ".join(option.flags), bounds(lower or (), upper or ()))
    if isinstance(option.kind, Kept):
        return once(option.flags[0], (_kept(option.flags[0], text) for text in values[0]))
    return values[0]


def _kept(flag: str, text: str) -> tuple[str, list[int | str]]:
    kind, _, values = text.partition("=")
    names = _names(values)
    if not names:
        raise UsageError(f"{flag} {shown(text)}: give a kind and the choices to keep, such as d_model=32,64")
    return kind.strip(), [int(name) if name.isdecimal() else name for name in names]
