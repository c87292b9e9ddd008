"""Endpoints that change a study's name, notes and tags, and that delete a study."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import Field, StringConstraints

from nas.service.access import needs
from nas.service.bodies import document
from nas.service.fields import Name, Strict
from nas.service.studies import OfStudy, Runner, Stored
from nas.service.views import StudyViews
from studies.editing import MAX_NOTES, MAX_TAG, MAX_TAGS, annotate_study, delete_study, rename_study
from studies.errors import InvalidText, StudyBusy, StudyExists

router = APIRouter(tags=["studies"])

TrimmedName = Annotated[Name, StringConstraints(strip_whitespace=True)]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TAG)]


class NewName(Strict):
    name: TrimmedName


class NewNotes(Strict):
    """New notes and tags; a missing field leaves its value unchanged."""

    notes: str | None = Field(None, max_length=MAX_NOTES)
    tags: list[Tag] | None = Field(None, max_length=MAX_TAGS)


@router.put("/studies/{name}/name")
def rename(scope: Runner, store: Stored, view: OfStudy, request: Request, body: NewName) -> dict[str, Any]:
    """Rename the study. 409 if the name is taken or while the study is running, 422 for an invalid name."""
    try:
        rename_study(store, view.study, body.name)
    except (StudyExists, StudyBusy) as error:
        raise HTTPException(409, str(error)) from None
    except InvalidText as error:
        raise HTTPException(422, str(error)) from None
    view.forget_age()
    views: StudyViews = request.app.state.views
    return document(views.view(body.name))


@router.put("/studies/{name}/notes")
def annotate(scope: Runner, store: Stored, view: OfStudy, body: NewNotes) -> dict[str, Any]:
    """Replace the study's notes, its tags, or both. 422 for text that can't be stored."""
    try:
        annotate_study(store, view.study, body.notes, body.tags)
    except InvalidText as error:
        raise HTTPException(422, str(error)) from None
    view.forget_age()
    return document(view.refresh())


@router.delete("/studies/{name}", status_code=204)
def remove(scope: Annotated[str, Depends(needs("admin"))], store: Stored, view: OfStudy) -> None:
    """Delete the study and its trials permanently. 409 while it is running."""
    try:
        delete_study(store, view.study)
    except StudyBusy as error:
        raise HTTPException(409, str(error)) from None
    view.forget_age()
