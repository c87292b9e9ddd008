"""Endpoints for studies: list, create, read, and control whether and when workers run one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.concurrency import run_in_threadpool

from nas.errors import UsageError
from nas.request.schema import ServiceResume, ServiceSearch
from nas.searchers.registry import SEARCHERS
from nas.service.access import needs
from nas.service.bodies import NewStudy, StudyChange, document, summary
from nas.service.catalogue import Catalogue, why_not_searched
from nas.service.fields import request_of
from nas.service.views import StudyViews, View
from nas.setup.narrowing import narrowed
from nas.setup.plan import requested
from nas.setup.warm_start import with_warm_start
from studies.control import change, drivers
from studies.errors import StudyExists, UnknownStudy
from studies.records import Control, Study, StudyState
from studies.store import Store

router = APIRouter(tags=["studies"])
Reader = Annotated[str, Depends(needs("read"))]
Runner = Annotated[str, Depends(needs("run"))]


# Functions that only read memory are async: a switch to a pool thread would cost a busy server more than the work.
async def view_of(request: Request, name: Annotated[str, Path(max_length=200)]) -> View:
    """The view of the study in the URL. 404 for an unknown study."""
    views: StudyViews = request.app.state.views
    if (fresh := views.fresh(name)) is not None:
        return fresh
    try:
        return await run_in_threadpool(views.view, name)
    except UnknownStudy:  # its message names the database, which clients should not see
        raise HTTPException(404, f"there is no study {name!r}") from None


async def stored(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


OfStudy = Annotated[View, Depends(view_of)]
Stored = Annotated[Store, Depends(stored)]


@router.get("/studies")
def studies(scope: Reader, store: Stored) -> list[dict[str, Any]]:
    holders = drivers(store)
    return [summary(s, holders.get(s.name)) for s in store.studies()]


@router.post("/studies", status_code=201)
def create(scope: Runner, store: Stored, request: Request, body: NewStudy) -> dict[str, Any]:
    """Queue a study for workers. 422 for an invalid study, 409 if its name is taken."""
    asked = request_of(ServiceSearch, body)
    planned = _planned(request.app.state.catalogue, store, asked)
    try:
        store.create_study(
            replace(planned, state=StudyState.QUEUED, control=Control.RUN, priority=asked.priority)
        )
    except StudyExists:
        raise HTTPException(
            409, f"a study named {planned.name!r} exists already; choose another name"
        ) from None
    views: StudyViews = request.app.state.views
    return document(views.view(planned.name))


@router.get("/studies/{name}")
async def study(scope: Reader, view: OfStudy) -> dict[str, Any]:
    return document(view)


@router.patch("/studies/{name}")
def change_study(scope: Runner, store: Stored, view: OfStudy, body: StudyChange) -> dict[str, Any]:
    """Pause, stop or resume a study, add trials to its budget, or change its priority.

    409 for resuming a finished study without more trials, or one with a user-defined judge that no process drives.
    """
    found = store.study(view.study.name)
    asked = request_of(ServiceResume, body, study=found.name)
    columns: dict[str, Any] = {}
    if body.priority is not None:
        columns["priority"] = body.priority
    if asked.trials:
        columns["max_trials"] = found.max_trials + asked.trials
    if asked.minutes is not None:
        columns["max_seconds"] = asked.minutes * 60
    if body.action is not None:
        columns["control"] = body.action
    if columns.get("control") == Control.RUN:
        if found.state == StudyState.FINISHED and not asked.trials:
            raise HTTPException(409, f"study {found.name!r} is finished; give more_trials to resume it")
        if found.quality == "user" and not found.control and not _is_driven(store, found):
            raise HTTPException(409, f"study {found.name!r} is judged by a function of its owner's code")
        if found.state in (StudyState.FINISHED, StudyState.FAILED):
            columns |= {"state": StudyState.QUEUED, "problem": ""}
    if columns:
        change(store, found, **columns)
    view.forget_age()
    return document(view.refresh())


def _is_driven(store: Store, study: Study) -> bool:
    holder = drivers(store, study.name).get(study.name)
    return holder is not None and holder.seconds_left > 0


def _planned(catalogue: Catalogue, store: Store, asked: ServiceSearch) -> Study:
    space, recipe = catalogue.space(asked.space), catalogue.recipe(asked.space)
    if (searcher := asked.given.get("searcher")) in SEARCHERS:
        num_objectives = len(asked.objectives or recipe.objectives)
        ladder = asked.given.get("ladder", recipe.ladder)
        reason = why_not_searched(searcher, narrowed(space, asked.keep), ladder, num_objectives)
        if reason is not None:
            raise UsageError(f"--searcher {searcher}: {reason}")
    planned = requested(asked, space, recipe)
    if not asked.warm_start:
        return planned
    try:
        return with_warm_start(store, planned, asked.warm_start)
    except UnknownStudy:  # its message names the database
        raise UsageError(f"--warm-start {asked.warm_start}: there is no such study") from None
