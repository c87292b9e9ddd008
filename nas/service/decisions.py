"""Endpoint for the decisions of trials: further columns for a table of trials."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from nas.service.studies import OfStudy, Reader, Stored
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.export import decisions as decided

router = APIRouter(tags=["trials"])
Number = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Decisions(BaseModel):
    """`rows` maps trial numbers to a value for each of `names`, null if the network has no such decision."""

    names: list[str] = Field(description="every decision of the space with more than one choice")
    rows: dict[int, list[bool | int | float | str | None]]


@router.get("/studies/{name}/decisions", response_model=Decisions)
def decisions(
    scope: Reader,
    view: OfStudy,
    store: Stored,
    number: Annotated[list[Number], Query(max_length=100, description="number of a trial; repeatable")] = [],  # noqa: B006
) -> dict[str, Any]:
    """The decisions of the space, and their values in the given trials."""
    encoding = Encoding(SpaceSpec.from_json(view.study.space))
    names = [v.name for v in encoding.variables if len(v.values) > 1]
    found = store.trials(view.study, numbers=number) if number else []
    return {"names": names, "rows": {t.number: list(decided(encoding, t).values()) for t in found}}
