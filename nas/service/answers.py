"""Error responses: all have the form {"detail": a sentence}, which names the fields of the request."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from nas.errors import NasError, StoreError
from nas.request.functions import named
from nas.service.catalogue import Unlisted
from nas.service.fields import names_in_bodies
from studies.errors import UnknownStudy

RETRY = 5.0
_LOG = logging.getLogger("nas.service")
_FIELDS = names_in_bodies()
_NUM_SHOWN = 4


class Problem(BaseModel):
    """The body of an error response."""

    detail: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request is invalid"}
}


def install(app: FastAPI) -> None:
    """Register handlers that turn every error of `app` into such a response."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NasError, _cannot)
    app.add_exception_handler(ValueError, _cannot)
    app.add_exception_handler(UnknownStudy, _gone)
    app.add_exception_handler(StoreError, _unavailable)
    app.add_exception_handler(Unlisted, _unavailable)
    app.add_exception_handler(Exception, _mistake)


def unavailable(error: Exception) -> str:
    """The message for a client; the error itself, which may name files and hosts of this machine, is logged."""
    _LOG.warning("%s", error)
    part = (
        "part of the program can't be listed"
        if isinstance(error, Unlisted)
        else "the database is not available"
    )
    return f"{part} at the moment; the log of `nas serve` says why"


def of_fields(sentence: str) -> str:
    """The sentence with flags of the command line replaced by the names of fields of a request."""
    return named(sentence, _FIELDS)


def in_words(errors: list[dict[str, Any]]) -> str:
    """The errors of pydantic as sentences with the field, its value and what is valid."""
    sentences = list(dict.fromkeys(_sentence(e) for e in errors))
    more = f"; and {len(sentences) - _NUM_SHOWN} more" if len(sentences) > _NUM_SHOWN else ""
    return "; ".join(sentences[:_NUM_SHOWN]) + more


def _sentence(error: dict[str, Any]) -> str:
    place, *parts = (str(part) for part in error["loc"] if part != "[key]")
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', message)}"
    field = " ".join(parts)[:80] or f"the {place}"
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field}: there is no such field"
    value = error.get("input")
    shown = f" {value!r:.80}" if isinstance(value, str | int | float | None) else ""
    if message.startswith("Input should "):
        return f"{field}{shown} {message.removeprefix('Input ')}"
    return f"{field}{shown}: {message[:1].lower()}{message[1:]}"


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": in_words(list(error.errors()))}, 422)


async def _cannot(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": of_fields(str(error))}, 422)


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "there is no such study any more"}, 404)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": unavailable(error)}, 503, {"Retry-After": f"{RETRY:g}"})


async def _mistake(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the server made a mistake; its log says where"}, 500)
