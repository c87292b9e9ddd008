"""Endpoints for the analysis of a study: importance of decisions, worth, and comparison with another study."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from contextlib import closing
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from nas.service.studies import OfStudy, Reader, Stored, view_of
from nas.service.views import View
from nas.workers.child import Child
from studies.comparison import compare
from studies.importance import MIN_TRIALS
from studies.latencies import timed
from studies.records import TrialState
from studies.store import Store
from studies.worth import Worth
from studies.worth import worth as compared

router = APIRouter(tags=["analysis"])
MAX_KEPT = 64  # studies whose importance is cached


class Importance(BaseModel):
    objective: str
    num_trials: int = Field(description="complete trials that the model was fitted to")
    explained: float = Field(description="share of the variance that the model explains on held-out trials")
    decisions: dict[str, float] = Field(description="total Sobol' index by decision, most important first")


class Pair(BaseModel):
    trial: int
    by: int


class Side(BaseModel):
    study: str
    trials: int
    complete: int
    front_size: int
    best: dict[str, float]
    hypervolume: list[float | None] = Field(
        description="hypervolume after the numbers of trials in `at`, as a share of both fronts together"
    )
    dominated: list[Pair] = Field(
        description="members of the front that a trial of the other study dominates"
    )


class Comparison(BaseModel):
    objectives: list[dict[str, Any]] = Field(description="the objectives that both studies have")
    at: list[int]
    reference: dict[str, float]
    studies: list[Side]
    notes: list[str] = Field(description="differences that limit the comparison")


class Weights:
    """Importance by study, computed one at a time and cached until the study has more complete trials."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int | None, str], tuple[int, Any]] = OrderedDict()

    def of(self, view: View) -> list[dict[str, Any]]:
        """The importance rows of a study. Raises HTTPException: 409 for too few trials, 503 while it is busy."""
        study, complete = view.study, view.counts()[TrialState.COMPLETE]
        if complete < MIN_TRIALS:
            raise HTTPException(
                409,
                f"study {study.name!r} has {complete} complete trials; importance needs at least {MIN_TRIALS}",
            )
        key = (study.id, study.created_at)
        kept = self._kept.get(key)
        if kept is None or kept[0] != complete:
            if not self._lock.acquire(blocking=False):
                raise HTTPException(
                    503, "another importance is being computed; try again", {"Retry-After": "2"}
                )
            try:
                kept = (complete, self._compute(study.name))
                self._kept[key] = kept
                while len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
            finally:
                self._lock.release()
        found: list[dict[str, Any]] = kept[1]
        return found

    def _compute(self, name: str) -> list[dict[str, Any]]:
        with closing(Child("nas.service.weighing", [name], {"NAS_DB": self._url})) as child:
            if child.wait() != 0:
                raise HTTPException(500, f"importance can't be computed: {child.reason()}")
            answer = json.loads(child.output())
        if isinstance(answer, dict):
            raise HTTPException(409, answer["error"])
        found: list[dict[str, Any]] = answer
        return found


@router.get("/studies/{name}/importance", response_model=list[Importance])
async def importance(scope: Reader, view: OfStudy, request: Request) -> list[dict[str, Any]]:
    """The importance of each decision for each objective. 409 for too few trials, 503 while another is computed."""
    weights: Weights = request.app.state.weights
    return await run_in_threadpool(weights.of, view)


class WorthAnswer(BaseModel):
    quality: str = Field(description="the objective that is compared")
    cost: str = Field(description="the cost that it is compared at")
    measured: bool = Field(
        description="whether costs were measured; otherwise they are the search's predictions"
    )
    rows: list[dict[str, Any]] = Field(
        description="the best plain networks, each with the cheapest found network as good as it and the best as cheap"
    )
    sentence: str = Field(description='the conclusion; "" if there is nothing to compare yet')


@router.get("/studies/{name}/worth", response_model=WorthAnswer | None)
def worth(scope: Reader, view: OfStudy, store: Stored) -> dict[str, Any] | None:
    """Comparison of the front with the plain networks; null for a study without both a quality and a cost."""
    found = worth_of(view, store)
    return None if found is None else found.to_json() | {"sentence": found.sentence()}


def worth_of(view: View, store: Store) -> Worth | None:
    trials = [view.finished[n] for n in sorted(view.finished)]
    ids = [t.arch_id for t in trials if t.state == TrialState.COMPLETE]
    found = store.measurements(subjects=ids, quantity="latency")
    return compared(view.study, trials, timed(view.study, found))


@router.get("/studies/{name}/comparison", response_model=Comparison)
async def comparison(
    scope: Reader,
    view: OfStudy,
    request: Request,
    other: Annotated[str, Query(max_length=200, description="name of the other study")],
) -> dict[str, Any]:
    """Compare two studies in their common objectives. 422 if they have none or one has no complete trial."""
    views = [view, await view_of(request, other)]
    trials = [[v.finished[n] for n in sorted(v.finished)] for v in views]
    found = await run_in_threadpool(compare, [v.study for v in views], trials)
    return {
        "objectives": [o.to_json() for o in found.objectives],
        "at": found.at,
        "reference": found.reference,
        "studies": [side.to_json() for side in found.sides],
        "notes": found.notes,
    }
