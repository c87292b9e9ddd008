"""What `nas` offers a program says of every parameter what it is, of amounts the unit, and which errors it raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import nas
import nas.client
import nas.errors
import nas.execution.lease
from nas.client import Client
from nas.request.options import options_of

HOMES = (nas.errors, nas.client, nas.execution.lease)
UNITS = ("minutes", "GPUs", "share")
PUBLIC = [getattr(nas, name) for name in nas.__all__]
METHODS = [getattr(Client, name) for name in vars(Client) if not name.startswith("_")]
FUNCTIONS = [f for f in (*PUBLIC, *METHODS) if inspect.isfunction(f)]
RECORDS = [c for c in PUBLIC if is_dataclass(c)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__qualname__)
def test_every_parameter_of_a_public_function_is_documented(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    for name, parameter in inspect.signature(function).parameters.items():
        said = re.search(rf"`{name}`|^ *{name}: (?P<about>.*(?:\n {{8}} *.*)*)", text, re.MULTILINE)
        assert name == "self" or said, name
        if "float" in str(parameter.annotation) and name != "bounds":
            assert said
            assert any(unit in (said["about"] or "") for unit in UNITS), name


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__qualname__)
def test_every_public_function_names_its_errors(function: Callable[..., Any]) -> None:
    text = " ".join((inspect.getdoc(function) or "").split())
    said = re.findall(r"Raises (.*?)\. ?(?=Parameters:|[A-Z]|$)", text)
    assert said
    for name in re.findall(r"\b[A-Z]\w+(?:Error|Held|Service)\b", " ".join(said)):
        assert any(hasattr(home, name) for home in HOMES), name


@pytest.mark.parametrize("record", RECORDS, ids=lambda c: c.__name__)
def test_every_field_of_a_public_record_is_documented(record: Any) -> None:
    text = inspect.getdoc(record) or ""
    by_schema = {name for base in record.__bases__ if is_dataclass(base) for name in options_of(base)}
    for f in fields(record):
        assert f.name in by_schema or f"`{f.name}`" in text, f.name
