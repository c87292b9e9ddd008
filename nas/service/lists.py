"""Endpoints that list spaces, operators, searchers, objectives, workers and devices, and describe the caller."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from nas.service import catalogue
from nas.service.access import needs
from nas.service.catalogue import Catalogue
from nas.setup.narrowing import offered
from nas.setup.plan import code_version
from searchspace.spec.space import SpaceSpec
from studies.workers import workers as known_workers

router = APIRouter(tags=["what there is"])
Reader = Annotated[str, Depends(needs("read"))]


async def known(request: Request) -> Catalogue:
    found: Catalogue = request.app.state.catalogue
    return found


Known = Annotated[Catalogue, Depends(known)]


@router.get("/about")
async def about(scope: Reader) -> dict[str, str]:
    """The version of the program and the scope of the caller."""
    return {"version": code_version(), "scope": scope}


@router.get("/spaces")
def spaces(scope: Reader, known: Known) -> list[dict[str, Any]]:
    return [_listed(entry) for entry in known.spaces().values()]


@router.get("/spaces/{name}")
def space(scope: Reader, known: Known, name: str) -> dict[str, Any]:
    """A space with all its choices, its default recipe, and the choices that `keep` accepts. 404 if unknown."""
    found = known.spaces().get(name)
    if found is None:
        raise _no_space(known, name)
    keep = offered(SpaceSpec.from_json(found["space"]))
    return {**_listed(found), "keep": keep, "recipe": found["recipe"], "space": found["space"]}


@router.get("/spaces/{name}/searchers")
def searchers_of_space(
    scope: Reader, known: Known, name: str, objectives: Annotated[int, Query(ge=1, le=8)] = 2
) -> list[dict[str, Any]]:
    """Every searcher; `why_not` says why it can't search this space with so many objectives, null if it can.

    404 for an unknown space.
    """
    if name not in known.spaces():
        raise _no_space(known, name)
    space, recipe = known.space(name), known.recipe(name)
    return [
        {**s, "why_not": catalogue.why_not_searched(s["name"], space, recipe.ladder, objectives)}
        for s in catalogue.searchers()
    ]


@router.get("/operators", response_model=list[dict[str, Any]])
async def operators(scope: Reader, slot: Annotated[str | None, Query(max_length=40)] = None) -> Response:
    return Response(catalogue.operators(slot), media_type="application/json")


@router.get("/searchers")
async def searchers(scope: Reader) -> list[dict[str, str]]:
    return catalogue.searchers()


@router.get("/objectives")
async def objectives(scope: Reader) -> list[dict[str, Any]]:
    return catalogue.objectives()


@router.get("/workers")
def workers(scope: Reader, request: Request) -> list[dict[str, Any]]:
    """The known workers, with a row for each of their trials; `last_seen_seconds` keeps growing for a dead one."""
    return [vars(w) for w in known_workers(request.app.state.store)]


@router.get("/devices")
def devices(scope: Reader, known: Known) -> list[dict[str, Any]]:
    """Device profiles with their predictors' errors on held-out networks."""
    return known.devices()


def _no_space(known: Catalogue, name: str) -> HTTPException:
    return HTTPException(404, f"no space {name[:80]!r}; known: {', '.join(known.spaces())}")


def _listed(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {n: entry["space"][n] for n in ("name", "task", "data", "description")}
    return {**shown, "architectures": entry["architectures"]}
