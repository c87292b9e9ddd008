"""The first middleware of every request: authentication, rate and size limits, and security headers.

The page's files contain no data and are public. Every other address, known or not, requires a token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from nas.errors import StoreError
from nas.presentation.study import to_json
from nas.service import page
from nas.service.access import Access, Caller, Rate, Refused
from nas.service.answers import RETRY, unavailable

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


class Gate:
    """ASGI middleware. Rates are limited per token, or per address for public files."""

    def __init__(self, app: App, access: Access, rate: Rate) -> None:
        self._app, self._access, self._rate = app, access, rate

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        try:
            scope.setdefault("state", {})["caller"] = await self._admit(scope)
        except Refused as refused:
            await _refuse(send_with_headers, refused)
            return
        except StoreError as error:
            await _refuse(send_with_headers, Refused(503, unavailable(error), RETRY))
            return
        await self._pass_limited(scope, receive, send_with_headers)

    async def _admit(self, scope: Message) -> Caller:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        address = (scope.get("client") or ("",))[0]
        if scope["method"] in ("GET", "HEAD") and page.is_file(scope["path"]):
            caller = Caller(address, "")
        else:
            caller = await self._access.caller(headers, address, self._rate)
        if wait := self._rate.seconds_to_wait(caller.key):
            raise Refused(429, f"too many requests; try again in {wait:g} s", wait)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise _too_large()
        return caller

    async def _pass_limited(self, scope: Message, receive: Receive, send: Send) -> None:
        """Run the application, counting the body's bytes as they arrive, since a length may not be stated."""
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY_BYTES:
                return {"type": "http.disconnect"}
            return message

        async def send_unless_too_large(message: Message) -> None:
            if read <= MAX_BODY_BYTES:
                await send(message)

        await self._app(scope, receive_limited, send_unless_too_large)
        if read > MAX_BODY_BYTES:
            await _refuse(send, _too_large())


def _too_large() -> Refused:
    return Refused(413, f"a request holds at most {MAX_BODY_BYTES} bytes")


async def _refuse(send: Send, refused: Refused) -> None:
    body = to_json({"detail": str(refused)})
    headers = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    if refused.status == 401:
        headers[b"www-authenticate"] = b"Bearer"
    if refused.retry_seconds:
        headers[b"retry-after"] = b"%d" % refused.retry_seconds
    await send({"type": "http.response.start", "status": refused.status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})
