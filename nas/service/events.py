"""The event stream of a study: server-sent events that a client can resume after any interruption without loss.

    event: trials   id: the client's new position    data: {trials: [{number, state, values}], front: [numbers], knee}
                    with no trials if only the knee has changed, because networks were timed
    event: study    data: the study, whenever it has changed

The id encodes exactly which trials the client has (`nas.service.views`), so any server can resume a stream from
`Last-Event-ID` alone. A stream ends if its token is no longer valid, the study was deleted or the database is not
available; a new request then gets the reason.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from nas.errors import StoreError
from nas.presentation.study import to_json
from nas.service.access import Access, Refused, caller_of
from nas.service.answers import unavailable
from nas.service.bodies import document
from nas.service.studies import OfStudy, Reader
from nas.service.views import Position, View
from studies.errors import UnknownStudy

router = APIRouter(tags=["events"])
LOOK_SECONDS = 0.5
QUIET_SECONDS = 15.0
MAX_TRIALS = 500
MAX_STREAMS, MAX_STREAMS_OF_CALLER = 400, 40


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


class Streams:
    """Counts the open streams per caller (token) and in total."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def check_room(self, caller: str) -> None:
        """Raises HTTPException: 429 if the caller has too many open streams, 503 if there are too many in total."""
        if self._open[caller] >= MAX_STREAMS_OF_CALLER:
            raise HTTPException(
                429, f"this token has {MAX_STREAMS_OF_CALLER} open streams; close one", {"Retry-After": "5"}
            )
        if self._open.total() >= MAX_STREAMS:
            raise HTTPException(503, f"{MAX_STREAMS} streams are open; try again later", {"Retry-After": "5"})

    @contextmanager
    def one_of(self, caller: str) -> Iterator[None]:
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            self._open += Counter()  # forgets callers without a stream


@router.get("/studies/{name}/events", response_class=EventStream)
async def events(
    scope: Reader,
    view: OfStudy,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=24_000)] = None,
    after: Annotated[
        str | None, Query(max_length=24_000, description="position to start after, like Last-Event-ID")
    ] = None,
) -> EventStream:
    """Stream finished trials and changes of the study. 422 for an invalid position, 429 or 503 for too many streams."""
    try:
        position = Position.parse(last_event_id or after or "0:0")
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    streams: Streams = request.app.state.streams
    streams.check_room(caller_of(request).key)
    return EventStream(
        _stream(view, position, request), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _stream(view: View, position: Position, request: Request) -> AsyncIterator[bytes]:
    access: Access = request.app.state.access
    streams: Streams = request.app.state.streams
    caller = caller_of(request)
    with streams.one_of(caller.key):
        try:
            async for message in _messages(view, position, lambda: access.check(caller)):
                yield message
        except (Refused, UnknownStudy):
            return
        except StoreError as error:
            unavailable(error)


async def _messages(
    view: View, position: Position, check: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    shown: dict[str, Any] = {}
    quiet, knee = 0.0, view.knee
    while True:
        await check()
        if not view.is_fresh:
            await run_in_threadpool(view.refresh)
        quiet += LOOK_SECONDS
        new = view.since(position)
        is_retimed = not new and view.knee != knee  # networks were timed, which moved the knee
        knee = view.knee
        for start in range(0, max(len(new), is_retimed), MAX_TRIALS):
            some = new[start : start + MAX_TRIALS]
            position.add(t.number for t in some)
            listed = view.results(t.number for t in some)
            front = to_json([t.number for t in view.front])
            yield _event(
                "trials",
                b'{"trials":%s,"front":%s,"knee":%s}' % (listed, front, to_json(view.knee)),
                str(position),
            )
            quiet = 0.0
        if (described := document(view)) != shown:
            shown = described
            yield _event("study", to_json(described))
            quiet = 0.0
        if quiet >= QUIET_SECONDS:
            yield b": still here\n\n"
            quiet = 0.0
        await asyncio.sleep(LOOK_SECONDS)


def _event(name: str, data: bytes, position: str = "") -> bytes:
    identity = f"id: {position}\n" if position else ""
    return f"event: {name}\n{identity}data: ".encode() + data + b"\n\n"
