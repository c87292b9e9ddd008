"""The web application over one database: /api/v1, its OpenAPI document, and the page. Loads no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from nas.errors import NasError, StoreError
from nas.service import artifacts, events, lists, page, studies, trials
from nas.service.access import Rate, Tokens, needs
from nas.service.artifacts import Extractions
from nas.service.catalogue import Catalogue, Unlisted
from nas.service.limits import Limits
from nas.service.mirror import Mirror
from nas.setup.plan import code_version
from studies.patience import Patience
from studies.store import Store

ROOT = "/api/v1"
PER_SECOND, BURST = 200.0, 400.0
PATIENCE_SECONDS = 1.0  # of a caller


def create_app(url: str, rate: Rate | None = None) -> FastAPI:
    """The application over the database at `url`; it closes what it opened when the server stops."""

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
    app.state.tokens = Tokens(store)
    app.state.mirror = Mirror(store)
    app.state.catalogue = Catalogue()
    app.state.extractions = Extractions(store, url)
    api = APIRouter(prefix=ROOT)
    for part in (lists, studies, trials, events, artifacts):
        api.include_router(part.router)

    @api.get("/openapi.json", include_in_schema=False)
    def openapi(scope: Annotated[str, Depends(needs("read"))]) -> dict[str, Any]:
        return app.openapi()

    app.include_router(api)
    app.include_router(page.router)
    app.add_exception_handler(NasError, _cannot)
    app.add_exception_handler(ValueError, _cannot)
    app.add_exception_handler(StoreError, _unavailable)
    app.add_exception_handler(Unlisted, _unavailable)
    app.add_middleware(Limits, rate=rate or Rate(PER_SECOND, BURST))
    return app


def _cannot(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})
