"""The bodies of requests, and studies as JSON for responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from nas.execution.status import Status, status
from nas.request.schema import ServiceExtract, ServiceResume, ServiceSearch
from nas.service.answers import of_fields
from nas.service.fields import Strict, body_of
from nas.service.views import View
from studies.control import Driver
from studies.records import Control, Study, StudySummary


class _StudyChange(Strict):
    action: Literal["run", "pause", "stop"] | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)


class _NewExtraction(Strict):
    trial: int = Field(ge=0, le=1_000_000_000)


if TYPE_CHECKING:
    NewStudy: TypeAlias = Strict
    StudyChange: TypeAlias = _StudyChange
    NewExtraction: TypeAlias = _NewExtraction
else:
    NewStudy = body_of(
        ServiceSearch,
        Strict,
        "NewStudy",
        "A study for workers. Fields that are not given take the values of the space's recipe.",
    )
    StudyChange = body_of(
        ServiceResume,
        _StudyChange,
        "StudyChange",
        "`run` queues the study for workers; `pause` and `stop` withdraw it once running trials have ended.",
    )
    NewExtraction = body_of(
        ServiceExtract,
        _NewExtraction,
        "NewExtraction",
        "The network to extract, and options of the extraction.",
    )


def has_weights(study: Study) -> bool:
    """Whether the study's networks can be extracted: it has a supernet, or its networks were trained alone."""
    return bool(study.supernet) or any(o.source == "trained" for o in study.objectives)


def summary(s: StudySummary, driver: Driver | None) -> dict[str, Any]:
    state = status(s.state, s.control, s.progress, driver)
    return {
        "name": s.name,
        "space": s.space,
        "searcher": s.searcher,
        "state": state,
        "progress": s.progress or None,
        "priority": s.priority,
        "tags": s.tags,
        "trials": s.counts,
        "max_trials": s.max_trials,
        "created_at": s.created_at,
    }


def document(view: View) -> dict[str, Any]:
    study = view.study
    state = status(study.state, study.control, study.progress, view.driver)
    if view.is_waiting:
        state = Status.WAITING
    fields = (
        "name",
        "searcher",
        "seed",
        "lag",
        "max_trials",
        "max_seconds",
        "quality",
        "priority",
        "notes",
        "tags",
    )
    return {
        **{name: getattr(study, name) for name in fields},
        "state": state,
        "problem": of_fields(study.problem),
        "is_managed": study.control != Control.NONE,
        "space": study.space["name"],
        "objectives": [o.to_json() for o in study.objectives],
        "progress": study.progress or None,
        "device": study.settings.device,
        "runtime": next((o.runtime for o in study.objectives if o.runtime), ""),
        "code_version": study.code_version,
        "created_at": study.created_at,
        "has_weights": has_weights(study),
        "trials": view.counts(),
        "front_size": len(view.front),
    }
