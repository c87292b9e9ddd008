"""Authentication and authorization: every API call needs a token of sufficient scope, whatever its address.

Addresses prove nothing: behind a proxy every request comes from this machine, and a local browser runs pages of other
sites. Tokens are made by `nas token create` and kept in the database, or by each start of `nas serve` and kept in this
process.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studies import tokens
from studies.store import Store
from studies.tokens import SCOPES

KEPT_SECONDS, MAX_KEPT = 2.0, 1000
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_bearer = HTTPBearer(auto_error=False, description="`nas token create NAME --scope read|run|admin`")
_NEEDED = (
    "a token is needed in the header Authorization: Bearer TOKEN: take it from the address that `nas serve` printed, "
    "or make one with `nas token create`"
)


@dataclass(frozen=True)
class Caller:
    """An authenticated caller: `key` is the SHA-256 of its token, or its address if no tokens are required."""

    key: str
    scope: str


class Refused(Exception):
    """A refused request, with the HTTP status and the message of the answer."""

    def __init__(self, status: int, sentence: str, retry_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.status, self.retry_seconds = status, retry_seconds


class Access:
    """Authenticates callers by their tokens.

    `own` is the token of this start; with `is_open` everybody is admin. Tokens are compared and kept as SHA-256, so
    that the time of a comparison reveals nothing about them. Answers of the database are cached for KEPT_SECONDS, so
    that a busy client does not cost a query per request.
    """

    def __init__(self, store: Store, own: str = "", is_open: bool = False) -> None:
        self._store, self._is_open = store, is_open
        self._own = tokens.digest(own) if own else ""
        self._kept: dict[str, tuple[float, str | None, str]] = {}
        self._good: set[str] = (
            set()
        )  # keys that were valid at their last lookup, exempt from the limit of attempts

    async def caller(self, headers: Mapping[str, str], address: str, strangers: Rate) -> Caller:
        """The caller of a request. Raises Refused: 401 without a valid token, 429 for too many unknown tokens."""
        if self._is_open:
            _refuse_other_sites(headers, address)
            return Caller(address, "admin")
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Refused(401, _NEEDED)
        key = tokens.digest(token.strip())
        is_known = self._is_own(key) or key in self._good
        if not is_known and (wait := strangers.seconds_to_wait(f"unknown tokens, {address}")):
            raise Refused(429, f"too many unknown tokens; try again in {wait:g} s", wait)
        return Caller(key, await self._scope(key))

    async def check(self, caller: Caller) -> None:
        """Raises Refused if the caller's token was revoked or has expired in the meantime."""
        if not self._is_open:
            await self._scope(caller.key)

    async def _scope(self, key: str) -> str:
        if self._is_own(key):
            return "admin"
        known = self._kept.get(key)
        if known is None or time.monotonic() >= known[0]:
            known = await run_in_threadpool(self._look_up, key)
            if len(self._kept) > MAX_KEPT:
                self._kept.clear()
            self._kept[key] = known
        _, scope, reason = known
        if scope is None:
            self._good.discard(key)
            raise Refused(401, reason)
        self._good.add(key)
        return scope

    def _is_own(self, key: str) -> bool:
        return hmac.compare_digest(key, self._own)

    def _look_up(self, key: str) -> tuple[float, str | None, str]:
        """(time.monotonic() until which the answer is valid, scope or None, reason for None)."""
        found = tokens.find(self._store, key)
        until = time.monotonic() + KEPT_SECONDS
        if found is None:
            return until, None, "the token is unknown or was revoked"
        if found.is_expired:
            return until, None, "the token has expired"
        if found.expires_at is not None:
            until = min(until, time.monotonic() + max(0.0, found.expires_at - time.time()))
        return until, found.scope, ""


def needs(scope: str) -> Callable[..., Awaitable[str]]:
    """A FastAPI dependency that returns the caller's scope, and answers 403 if it does not include `scope`."""

    async def check(
        request: Request,
        _: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008
    ) -> str:
        has = caller_of(request).scope
        if SCOPES.index(has) < SCOPES.index(scope):
            raise HTTPException(403, f"this needs a token of scope {scope}; yours has scope {has}")
        return has

    return check


def caller_of(request: Request) -> Caller:
    """The caller that the gate authenticated (`nas.service.gate`)."""
    caller: Caller = request.state.caller
    return caller


def _refuse_other_sites(headers: Mapping[str, str], address: str) -> None:
    """Raises Refused for a browser's request from another site: by its origin, or by a host name rebound to here."""
    site, origin = headers.get("sec-fetch-site", ""), headers.get("origin", "")
    if site not in ("", "same-origin", "none") or (
        not site and origin and urlsplit(origin).netloc != headers.get("host")
    ):
        raise Refused(403, "a page of another site asked for this")
    if address and _host(headers) not in LOCAL_NAMES:  # a Unix socket has no address
        raise Refused(401, "without a token this server only answers to localhost, 127.0.0.1 and [::1]")


def _host(headers: Mapping[str, str]) -> str | None:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


class Rate:
    """Token buckets by client: `per_second` on average, `burst` at once."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}

    def seconds_to_wait(self, client: str) -> float:
        """Seconds until the client may send a request; 0.0 if it may now, which counts the request."""
        now = time.monotonic()
        left, at = self._left.get(client, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_second)
        if len(self._left) > 10_000:
            self._left.clear()
        if left < 1.0:
            self._left[client] = (left, now)
            return math.ceil((1.0 - left) / self.per_second)
        self._left[client] = (left - 1.0, now)
        return 0.0
