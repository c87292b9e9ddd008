"""Declaration of options, shared by command line, Python, recipe files and the bodies of requests to the service.

An option is declared once, as a field of a dataclass: `option(default, about, kind)`, or `key(...)` if it is also a key
of a recipe. Flags, Python parameters and request fields are generated from these fields by `nas.cli.options`,
`nas.request.functions` and `nas.service.fields`. The options themselves are in `nas.request.schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeAlias

from nas.errors import UsageError
from searchspace.spec.reading import LARGEST, bounds, real, shown, unknown, whole, word, words

MOST_TRIALS = MOST_STEPS = 1_000_000_000
MOST_WORKERS = 1024
LONGEST = 100 * 365 * 24 * 60.0  # minutes

# Kinds of values. `check` returns the normalized value, or raises ValueError with `where`, the value and what is valid.


@dataclass(frozen=True)
class Whole:
    least: int = 0
    most: int = LARGEST

    def check(self, where: str, value: Any) -> int:
        return whole(where, value, self.least, self.most)


@dataclass(frozen=True)
class Real:
    least: float = float("-inf")
    most: float = float("inf")
    above: float = float("-inf")

    def check(self, where: str, value: Any) -> float:
        return real(where, value, self.least, self.most, self.above)


@dataclass(frozen=True)
class Minutes:
    """A positive number of minutes; on the command line a duration such as 2h30m."""

    def check(self, where: str, value: Any) -> float:
        return real(where, value, above=0, most=LONGEST)


@dataclass(frozen=True)
class Text:
    """A string; if `known` is not empty, one of `known`."""

    known: tuple[str, ...] = ()

    def check(self, where: str, value: Any) -> str:
        """Return `value`. Raises ValueError if it is not a string or not one of `known`."""
        if self.known and word(where, value) not in self.known:
            raise ValueError(f"{where}: {unknown(value, filter(None, self.known))}")
        return word(where, value)


@dataclass(frozen=True)
class StudyName:
    """A string; `nas.setup.plan.check_name` checks that it can be part of file names and URLs."""

    def check(self, where: str, value: Any) -> str:
        return word(where, value)


@dataclass(frozen=True)
class Texts:
    """Strings; on the command line separated by commas, or given by repeating the flag if `is_repeated`."""

    is_repeated: bool = False

    def check(self, where: str, value: Any) -> tuple[str, ...]:
        return tuple(words(where, value))


@dataclass(frozen=True)
class Switch:
    def check(self, where: str, value: Any) -> bool:
        """Return `value`. Raises ValueError if it is not a bool."""
        if isinstance(value, bool):
            return value
        raise ValueError(f"{where} {shown(value)}: give true or false")


def _mapping(where: str, value: Any, right: str) -> Mapping[Any, Any]:
    if isinstance(value, Mapping):
        return value
    raise ValueError(f"{where} {shown(value)}: give a mapping, as {right}")


@dataclass(frozen=True)
class Bounds:
    """{quantity: (lower, upper)}, None for no bound. On the command line two flags take q=v: one lower, one upper."""

    def check(self, where: str, value: Any) -> dict[str, tuple[float | None, float | None]]:
        """Return `value` with tuples. Raises ValueError if a pair is malformed or its bounds are invalid."""
        for name, sides in _mapping(where, value, "{quantity: (lower, upper)}").items():
            if not isinstance(sides, tuple | list) or len(sides) != 2:
                raise ValueError(
                    f"{where}: {name} {shown(sides)}: give a lower and an upper bound, None for an open side"
                )
            try:
                bounds(name, *sides)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        return {name: tuple(sides) for name, sides in value.items()}


@dataclass(frozen=True)
class Kept:
    """{kind of choice: [choices to keep]}, see `nas.setup.narrowing`."""

    def check(self, where: str, value: Any) -> dict[str, list[int | str]]:
        """Return `value` with lists. Raises ValueError if it is not a mapping to lists or tuples."""
        for name, values in _mapping(where, value, "{kind: [what is kept]}").items():
            if not isinstance(values, tuple | list):
                raise ValueError(f"{where}: {name} {shown(values)}: give a list of what is kept")
        return {name: list(values) for name, values in value.items()}


@dataclass(frozen=True)
class Objectives:
    """Names of objectives or, with a user-defined evaluation function, `nas.Objective`s."""

    def check(self, where: str, value: Any) -> list[Any]:
        """Return `value` as a list. Raises ValueError if it is neither a list nor a tuple."""
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} {shown(value)}: give a list of names")
        return list(value)


@dataclass(frozen=True)
class Anything:
    """Any Python object; on the command line the path it is read from."""

    def check(self, where: str, value: Any) -> Any:
        return value


Kind: TypeAlias = (
    Whole | Real | Minutes | Text | StudyName | Texts | Switch | Bounds | Kept | Objectives | Anything
)


@dataclass(frozen=True)
class Option:
    """A declared option. `about` is its help text, which names other options by their flags.

    `flags` are its names on the command line, empty if it is not offered there. `body` is its field in the body of a
    request to the service, "" if it has none; with `is_needed` the field is required. `is_key` marks a key of a recipe.
    `right` describes a valid value, for the error about an empty string (which elsewhere means "not given").
    """

    about: str
    kind: Kind
    flags: tuple[str, ...]
    metavar: str | None
    body: str
    is_needed: bool
    is_key: bool
    right: str
    default: Any

    def checked(self, where: str, value: Any) -> Any:
        """The normalized value. Raises UsageError with `where`, the value and what is valid."""
        if self.right:
            check_given(where, value, self.right)
        try:
            return self.kind.check(where, value)
        except ValueError as error:
            raise UsageError(str(error)) from None


_OF_FIELD = "="  # placeholder: derived from the field's name


def option(
    default: Any,
    about: str,
    kind: Kind,
    *,
    flags: tuple[str, ...] = (_OF_FIELD,),
    metavar: str | None = None,
    body: str | None = None,
    is_needed: bool = False,
    is_key: bool = False,
    right: str = "",
) -> Any:
    """Declare a dataclass field; `flags` and `body` are derived from the field's name if left out.

    A default of `...` makes the option required.
    """
    place = _OF_FIELD if body is None else body
    metadata = {"option": Option(about, kind, flags, metavar, place, is_needed, is_key, right, default)}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def key(default: Any, about: str, kind: Kind, **more: Any) -> Any:
    """Declare an option that is also a key of a recipe; if it is not given, the recipe's value is used."""
    return option(default, about, kind, is_key=True, **more)


def options_of(schema: Any) -> dict[str, Option]:
    """Every option of a dataclass or its instance, by Python name; a class's own options come before inherited ones."""
    bases = (schema if isinstance(schema, type) else type(schema)).__mro__
    owners = [vars(base).get("__annotations__", {}) for base in bases]
    found = {}
    for f in sorted(fields(schema), key=lambda f: [f.name in names for names in owners].index(True)):
        if (declared := f.metadata.get("option")) is None:
            continue
        flags = (f"--{f.name.replace('_', '-')}",) if _OF_FIELD in declared.flags else declared.flags
        body = f.name if declared.body == _OF_FIELD else declared.body
        found[f.name] = replace(declared, flags=flags, body=body)
    return found


def check_given(where: str, value: Any, right: str) -> None:
    """Raises UsageError if `value` is a blank string, which would be mistaken for an option that was not given."""
    if isinstance(value, str) and not value.strip():
        raise UsageError(f'{where} "": give {right}, or leave {where} out')


class Request:
    """Base of the dataclasses that hold the options of one call; `given` maps the given options to their values."""

    given: dict[str, Any]

    def __new__(cls, *args: Any, **given: Any) -> Self:
        self = super().__new__(cls)
        object.__setattr__(self, "given", {n: v for n, v in given.items() if v is not None})
        return self

    def __post_init__(self) -> None:
        declared = options_of(self)
        for name, value in self.given.items():
            object.__setattr__(self, name, declared[name].checked(name, value))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """A request with `values`; a value of None counts as not given. Raises UsageError for an invalid value."""
        return cls(**{name: value for name, value in values.items() if value is not None})

    @property
    def keys(self) -> dict[str, Any]:
        """The given options that are keys of a recipe, by name."""
        declared = options_of(self)
        return {name: getattr(self, name) for name in self.given if declared[name].is_key}
