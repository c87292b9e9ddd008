"""Builds Python functions whose parameters are the options of a schema (`nas.request.options`).

Error messages inside the program name options as command-line flags. Each interface translates the flags into its own
names with `named` before it shows a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from textwrap import fill
from typing import Any, Concatenate, ParamSpec, TypeVar

from nas.errors import NasError, StoreError
from nas.request.options import options_of

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

_FLAG = re.compile(r"`[^`]*`|(?<![\w-])--[a-z]+(?:-[a-z]+)*")


def named(sentence: str, names: Mapping[str, str]) -> str:
    """Replace each flag in `sentence` by its entry in `names`, or by its Python form: --a-b becomes a_b.

    Text in backticks, such as a quoted command, is left unchanged.
    """

    def name(found: re.Match[str]) -> str:
        flag = found[0]
        return flag if flag.startswith("`") else names.get(flag, flag[2:].replace("-", "_"))

    return _FLAG.sub(name, sentence)


def python_names(schema: Any) -> dict[str, str]:
    """The parameter name of every flag of `schema`, by flag."""
    return {flag: name for name, option in options_of(schema).items() for flag in option.flags}


def python_function(schema: Callable[P, R]) -> Callable[[Callable[[R], T]], Callable[P, T]]:
    """Decorator that gives a function of a request the options of `schema` as parameters; None means not given."""

    def decorate(function: Callable[[R], T]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with _named_as_in_python(schema):
                return function(schema(*args, **_given(kwargs)))

        _present(call, function, schema)
        return call

    return decorate


def python_method(schema: Callable[P, R]) -> Callable[[Callable[[S, R], T]], Callable[Concatenate[S, P], T]]:
    """Like `python_function`, for a method whose second parameter is the request."""

    def decorate(function: Callable[[S, R], T]) -> Callable[Concatenate[S, P], T]:
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with _named_as_in_python(schema):
                return function(self, schema(*args, **_given(kwargs)))

        _present(call, function, schema, Parameter("self", Parameter.POSITIONAL_OR_KEYWORD))
        return call

    return decorate


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _named_as_in_python(schema: Any) -> Iterator[None]:
    try:
        yield
    except (NasError, StoreError) as error:
        error.args = (named(str(error), python_names(schema)),)
        raise


def _present(call: Any, function: Callable[..., Any], schema: Any, *first: Parameter) -> None:
    """Give `call` the name and docstring of `function` and the parameters of `schema`, with their help texts."""
    options, names = options_of(schema), python_names(schema)
    known = signature(schema).parameters
    parameters, lines = [], []
    for name, option in options.items():
        parameter = known[name]
        if option.is_key:  # the recipe's value is the default
            parameter = parameter.replace(default=None, annotation=f"{parameter.annotation} | None")
        parameters.append(parameter)
        text = f"{name}: {named(option.about, names)}"
        lines.append(fill(text, 118, initial_indent=" " * 8, subsequent_indent=" " * 12))
    for attribute in ("__module__", "__name__", "__qualname__"):
        setattr(call, attribute, getattr(function, attribute))
    call.__doc__ = "\n".join([(function.__doc__ or "").rstrip(), "", "    Parameters:", *lines])
    parameters.sort(key=lambda p: p.kind)
    call.__signature__ = signature(function).replace(parameters=[*first, *parameters])
