"""Endpoints for a study's trials: filtered pages, the front, columns for plots, hypervolume, measurements."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from nas.presentation.study import to_json
from nas.service.access import needs
from nas.service.studies import OfStudy, Reader, Stored
from nas.service.views import View, listed
from studies.records import Trial, TrialState

router = APIRouter(tags=["trials"])
Limit = Annotated[int, Query(ge=1, le=500)]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000)]
Bounds = Annotated[
    list[str], Query(max_length=16, description="objective:number, such as latency:2.5; repeatable")
]


def json_response(document: Any) -> Response:
    return Response(to_json(document), media_type="application/json")


@router.get("/studies/{name}/trials", response_model=dict[str, Any])
def trials(
    scope: Reader,
    view: OfStudy,
    state: Annotated[list[TrialState] | None, Query()] = None,
    at_least: Bounds = [],  # noqa: B006
    at_most: Bounds = [],  # noqa: B006
    sort: Annotated[str, Query(max_length=64, description="number, seconds or an objective")] = "number",
    descending: bool = False,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """A page of trials with architectures and errors; `total` counts all matching trials. 422 for an invalid filter."""
    lower, upper = _bounds(view, at_least), _bounds(view, at_most)
    found = [t for t in _all(view) if state is None or t.state in state]
    for name, value in lower.items():
        found = [t for t in found if t.values.get(name, math.nan) >= value]
    for name, value in upper.items():
        found = [t for t in found if t.values.get(name, math.nan) <= value]
    found = _sorted(view, found, sort, descending)
    numbers = [t.number for t in found[offset : offset + limit]]
    head = b'{"total":%d,"offset":%d,"trials":' % (len(found), offset)
    return Response(head + listed(view.shown(numbers)) + b"}", media_type="application/json")


@router.get("/studies/{name}/trials/{number}", response_model=dict[str, Any])
def trial(scope: Reader, view: OfStudy, number: Annotated[int, Path(ge=0, le=1_000_000_000)]) -> Response:
    """A trial with its architecture. 404 for an unknown number."""
    found = view.shown([number])
    if not found:
        raise HTTPException(404, f"study {view.study.name!r} has no trial {number}")
    return Response(found[0], media_type="application/json")


@router.get("/studies/{name}/front", response_model=list[dict[str, Any]])
def front(scope: Reader, view: OfStudy) -> Response:
    """The trials of the Pareto front with their architectures, sorted by the first objective."""
    rows = view.shown([t.number for t in view.front])
    return Response(listed(rows), media_type="application/json")


@router.get("/studies/{name}/results", response_model=dict[str, Any])
def results(scope: Reader, view: OfStudy) -> Response:
    """All finished trials as columns; `position` is the id from which the event stream continues without loss."""
    return Response(view.columns(), media_type="application/json")


@router.get("/studies/{name}/hypervolume")
def hypervolume(scope: Reader, view: OfStudy) -> list[tuple[int, float]]:
    """Pairs of a number of trials and the hypervolume of their front, as a share of the current one."""
    return view.hypervolume()


@router.get("/studies/{name}/measurements", response_model=list[dict[str, Any]])
def study_measurements(scope: Reader, view: OfStudy, store: Stored) -> Response:
    """Measured latencies of the front's networks with the search's predictions, in ms."""
    by_arch = {t.arch_id: t for t in view.front}
    predicted = {o.name for o in view.study.objectives if o.source == "predicted"}
    rows = [
        {
            "number": by_arch[m.subject].number,
            "predicted": by_arch[m.subject].values.get(m.quantity),
            **m.to_json(),
        }
        for m in store.measurements(subjects=list(by_arch))
        if m.quantity in predicted and view.study.concerns(m)
    ]
    return json_response(rows)


@router.get("/measurements", response_model=list[dict[str, Any]])
def measurements(
    scope: Annotated[str, Depends(needs("read"))],
    store: Stored,
    subject: Annotated[str | None, Query(max_length=200)] = None,
    quantity: Annotated[str | None, Query(max_length=64)] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Response:
    """Measurements of all studies, oldest first; `subject` is an `arch_id` or an operator. 422 for unprintable text."""
    if any(text is not None and not text.isprintable() for text in (subject, quantity)):
        raise HTTPException(422, "subject and quantity must be printable text")
    found = store.measurements(subject=subject, quantity=quantity, limit=limit, offset=offset)
    return json_response([m.to_json() for m in found])


def _all(view: View) -> list[Trial]:
    return [*view.finished.values(), *view.unfinished]


def _sorted(view: View, found: list[Trial], sort: str, descending: bool) -> list[Trial]:
    """The trials sorted by number, seconds or an objective; trials without a value come last."""
    names = [o.name for o in view.study.objectives]
    if sort == "number":
        return sorted(found, key=lambda t: t.number, reverse=descending)
    if sort not in ("seconds", *names):
        raise HTTPException(422, f"sort: unknown {sort!r}; known: number, seconds, {', '.join(names)}")

    def value(t: Trial) -> float:
        known = t.seconds if sort == "seconds" else t.values.get(sort)
        return math.nan if known is None else known

    known = [t for t in found if not math.isnan(value(t))]
    known.sort(key=lambda t: (-value(t) if descending else value(t), t.number))
    return known + [t for t in found if math.isnan(value(t))]


def _bounds(view: View, texts: list[str]) -> dict[str, float]:
    names = [o.name for o in view.study.objectives]
    found = {}
    for text in texts:
        name, _, number = text.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in names or math.isnan(value):
            raise HTTPException(
                422, f"{text[:80]!r}: give objective:number with an objective of {', '.join(names)}"
            )
        found[name] = value
    return found
