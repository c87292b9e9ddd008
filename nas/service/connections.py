"""Limits on connections, so that slow or idle clients can't exhaust the server.

waiting    a connection without a complete request, new or kept alive, has to send one within REQUEST_SECONDS; the
           oldest are closed if more than MAX_WAITING wait
sending    a client that reads nothing of a response for READING_SECONDS is disconnected
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS = 20.0  # from the first byte of a request, or the opening of the connection, to its last byte
READING_SECONDS = 30.0
MAX_WAITING = 300
MAX_HEAD_BYTES = 64 * 1024
_waiting: dict[Connection, None] = {}  # in the order in which they began to wait


class Connection(HttpToolsProtocol):
    _in_time: asyncio.TimerHandle | None = None
    _progress: asyncio.TimerHandle | None = None
    _is_in_head, _head_bytes = False, 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()
        self._give_time()

    def data_received(self, data: bytes) -> None:
        if self._in_time is None and (self.cycle is None or self.cycle.response_complete):
            self._give_time()
        super().data_received(data)
        if self._is_in_head:  # headers are incomplete, so all data is still in memory
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        if self._in_time is None:
            self._give_time()
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.cycle.response_complete:  # otherwise it waits for the next request
            _waiting.pop(self, None)
        self._take_time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and not self.pipeline:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        _waiting.pop(self, None)
        self._take_time()
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def _wait(self) -> None:
        _waiting[self] = None
        while len(_waiting) > MAX_WAITING:
            oldest = next(iter(_waiting))
            del _waiting[oldest]
            oldest.transport.abort()

    def _give_time(self) -> None:
        self._in_time = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _take_time(self) -> None:
        if self._in_time is not None:
            self._in_time.cancel()
            self._in_time = None

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._progress = self.loop.call_later(READING_SECONDS, self._close_unless_less_than, left)

    def _close_unless_less_than(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._look_again()

    def _stop_looking(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
            self._progress = None
