"""Pydantic models of request bodies, generated from the options of a schema (`nas.request.options`)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from nas.request.functions import named
from nas.request.options import (
    Bounds,
    Kept,
    Kind,
    Minutes,
    Objectives,
    Request,
    StudyName,
    Switch,
    Text,
    Texts,
    Whole,
    options_of,
)
from nas.request.schema import ServiceExtract, ServiceResume, ServiceSearch

MOST = 1_000_000  # trials and steps; lower than on the command line, because the service is shared
MOST_SEEDS = 2**31
R = TypeVar("R", bound=Request)


def _of_form(pattern: str, right: str) -> AfterValidator:
    """A validator for strings that match `pattern` entirely; `right` describes valid ones."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"give {right}")
        return text

    return AfterValidator(check)


# Names may be any printable text that works in a URL, which excludes slashes and a leading dot.
Name = Annotated[
    str,
    _of_form(
        r"(?!\.)[^\x00-\x1f\x7f-\x9f/\\]{1,80}",
        "1 to 80 printable characters without a slash or backslash, the first one no dot",
    ),
]
Word = Annotated[str, _of_form(r"[\w-]{1,64}", "1 to 64 letters, digits, dashes or underscores")]
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Bound = tuple[Number | None, Number | None]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def names_in_bodies() -> dict[str, str]:
    """The field of each flag; if requests differ in the field of a flag, that of a search."""
    schemas: tuple[Any, ...] = (ServiceExtract, ServiceResume, ServiceSearch)
    options = [option for schema in schemas for option in options_of(schema).values()]
    return {flag: option.body for option in options if option.body for flag in option.flags}


def body_of(schema: Any, base: type[Strict], name: str, about: str) -> Any:
    """A pydantic model `name` with the fields of `base` and one for every option of `schema` that has a body field."""
    found: dict[str, Any] = {}
    for option in sorted(options_of(schema).values(), key=lambda o: o.body):
        if option.body:
            kind, limits = _of_kind(option.kind)
            text = named(option.about, names_in_bodies())
            if option.is_needed:
                found[option.body] = (kind, Field(description=text, **limits))
            else:
                found[option.body] = (kind | None, Field(None, description=text, **limits))
    return create_model(name, __base__=base, __doc__=about, **found)


def request_of(schema: type[R], body: BaseModel, **more: Any) -> R:
    """The request of a body; `more` are options from elsewhere, such as the URL. Raises UsageError if invalid."""
    sent = {name: getattr(body, o.body) for name, o in options_of(schema).items() if o.body}
    return schema.of(sent | more)


def _of_kind(kind: Kind) -> tuple[Any, dict[str, Any]]:
    """The type of a field and its limits. Raises TypeError for a kind without a body field."""
    match kind:
        case Whole():
            most = MOST_SEEDS if kind == Whole() else MOST
            return int, {"ge": kind.least, "le": min(kind.most, most)}
        case Minutes():
            return float, {"gt": 0, "le": 100_000}
        case Text():
            return Literal[kind.known] if kind.known else Word, {}
        case StudyName():
            return Name, {}
        case Texts() | Objectives():
            return list[Word], {"min_length": 1, "max_length": 8}
        case Switch():
            return bool, {}
        case Bounds():
            return dict[Word, Bound], {"max_length": 16}
        case Kept():
            return dict[Word, list[int | str]], {"max_length": 8}
    raise TypeError(f"a body has no field for {kind}")
