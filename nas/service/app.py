"""The web application over one database: /api/v1, its OpenAPI document, and the page. Does not import torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.gzip import GZipMiddleware

from nas.service import (
    analysis,
    answers,
    artifacts,
    decisions,
    downloads,
    editing,
    events,
    lists,
    page,
    studies,
    trials,
)
from nas.service.access import Access, Rate, needs
from nas.service.analysis import Weights
from nas.service.artifacts import Extractions
from nas.service.catalogue import Catalogue
from nas.service.events import Streams
from nas.service.gate import Gate
from nas.service.views import StudyViews
from nas.setup.plan import code_version
from studies.patience import Patience
from studies.store import Store

ROOT = "/api/v1"
PER_SECOND, BURST = 200.0, 400.0
PATIENCE_SECONDS = 1.0  # how long a request waits for the database


def create_app(url: str, rate: Rate | None = None, *, token: str = "", is_open: bool = False) -> FastAPI:
    """The application over the database at `url`; it closes its resources when the server stops.

    Besides the tokens in the database, `token` is valid with scope admin; with `is_open` no token is required.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.extractions.close()
        app.state.store.close()

    app = FastAPI(
        title="Efficient Transformer NAS",
        version=code_version(),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.store = store = Store(url, Patience(PATIENCE_SECONDS, PATIENCE_SECONDS))
    app.state.access = access = Access(store, token, is_open)
    app.state.streams = Streams()
    app.state.views = StudyViews(store)
    app.state.catalogue = Catalogue()
    app.state.extractions = Extractions(store, url)
    app.state.weights = Weights(url)
    api = APIRouter(prefix=ROOT, responses=answers.RESPONSES)
    for part in (lists, studies, editing, trials, decisions, analysis, downloads, events, artifacts):
        api.include_router(part.router)

    @api.get("/openapi.json", include_in_schema=False)
    def openapi(scope: Annotated[str, Depends(needs("read"))]) -> dict[str, Any]:
        return app.openapi()

    app.include_router(api)
    app.include_router(page.router)
    answers.install(app)
    app.add_middleware(
        GZipMiddleware, compresslevel=6
    )  # does not touch event streams and responses that are already compressed
    app.add_middleware(Gate, access=access, rate=rate or Rate(PER_SECOND, BURST))
    return app
