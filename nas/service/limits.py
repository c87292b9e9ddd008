"""What every request passes first: limits on its size and rate; and the headers that every answer carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from nas.presentation.study import to_json
from nas.service.access import Rate

MAX_BODY_BYTES = 64 * 1024
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class Limits:
    """ASGI middleware."""

    def __init__(self, app: App, rate: Rate) -> None:
        self._app, self._rate = app, rate

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        headers = dict(scope["headers"])
        client = (scope.get("client") or ("",))[0]
        if wait := self._rate.seconds_to_wait(client):
            text = f"too many requests; try again in {wait:g} s"
            await _refuse(send_with_headers, 429, text, {b"retry-after": b"%d" % wait})
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _refuse(send_with_headers, 413, f"a request holds at most {MAX_BODY_BYTES} bytes")
            return

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                return {"type": "http.disconnect"}
            return message

        async def send_unless_too_large(message: Message) -> None:
            if read <= MAX_BODY_BYTES:
                await send_with_headers(message)

        await self._app(scope, receive_limited, send_unless_too_large)
        if read > MAX_BODY_BYTES:
            await _refuse(send_with_headers, 413, f"a request holds at most {MAX_BODY_BYTES} bytes")


async def _refuse(send: Send, status: int, text: str, headers: dict[bytes, bytes] | None = None) -> None:
    body = to_json({"detail": text})
    given = {b"content-type": b"application/json", b"content-length": b"%d" % len(body), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": list(given.items())})
    await send({"type": "http.response.body", "body": body})
