"""What clients may send, and how a study and a trial look in answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nas.execution.status import status
from nas.service.mirror import View
from studies.control import Driver
from studies.records import StudySummary


def _of_form(pattern: str, right: str) -> AfterValidator:
    """Text that matches as a whole; `right` says in words what does."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"give {right}")
        return text

    return AfterValidator(check)


# Names are data: any printable text that can stand in an address, where a slash or a dot at the start would not.
StudyName = Annotated[
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


class NewStudy(Strict):
    """A study for workers. What is not given comes from the recipe of the space; `keep` narrows its choices."""

    name: StudyName
    space: Word
    objectives: list[Word] | None = Field(None, min_length=1, max_length=8)
    bounds: dict[Word, Bound] = Field(default_factory=dict, max_length=16)
    keep: dict[Word, list[int | str]] = Field(default_factory=dict, max_length=8)
    searcher: Word | None = None
    quality: Literal["auto", "supernet", "train", "proxy"] | None = None
    trials: int | None = Field(None, ge=1, le=1_000_000)
    minutes: float | None = Field(None, gt=0, le=100_000)
    training_steps: int | None = Field(None, ge=1, le=1_000_000)
    seed: int | None = Field(None, ge=0, le=2**31)
    priority: int = Field(0, ge=-1000, le=1000)
    device: Literal["cpu", "cuda"] = "cpu"
    runtime: Literal["auto", "eager", "onnxruntime"] | None = None


class StudyChange(Strict):
    """`run` queues the study for workers, `pause` and `stop` take it from them; trials that have begun are finished."""

    action: Literal["run", "pause", "stop"] | None = None
    more_trials: int = Field(0, ge=0, le=1_000_000)
    priority: int | None = Field(None, ge=-1000, le=1000)


class NewExtraction(Strict):
    trial: int = Field(ge=0, le=1_000_000_000)


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
        state = "waiting for the database"
    fields = (
        "name",
        "searcher",
        "seed",
        "lag",
        "max_trials",
        "max_seconds",
        "quality",
        "priority",
        "problem",
        "notes",
        "tags",
    )
    return {
        **{name: getattr(study, name) for name in fields},
        "state": state,
        "is_managed": study.control != "",
        "space": study.space["name"],
        "objectives": [o.to_json() for o in study.objectives],
        "progress": study.progress or None,
        "device": study.settings.get("device", ""),
        "runtime": next((o.runtime for o in study.objectives if o.runtime), ""),
        "code_version": study.code_version,
        "created_at": study.created_at,
        "has_weights": bool(study.supernet) or any(o.source == "trained" for o in study.objectives),
        "trials": view.counts(),
        "front_size": len(view.front),
    }
