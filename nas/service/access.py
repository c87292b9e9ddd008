"""Who may do what. Whoever calls the API shows a token, of which the scope has to suffice: an address proves nothing.

Behind a proxy every request comes from this machine, and a browser here runs pages of other sites. Tokens are those of
`nas token create`, which the database knows, and one that `nas serve` makes for each start, which this process knows.
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
    "a token is needed in the header Authorization: Bearer TOKEN: take that of the address which `nas serve` printed, "
    "or make one with `nas token create`"
)


@dataclass(frozen=True)
class Caller:
    """Whoever showed a token: `key` stands for it (its SHA-256; the address where nobody is asked for one)."""

    key: str
    scope: str


class Refused(Exception):
    """With the status and the sentence of the answer."""

    def __init__(self, status: int, sentence: str, retry_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.status, self.retry_seconds = status, retry_seconds


class Access:
    """Knows callers by their tokens.

    `own` is the token of this start; `is_open` lets in everybody, as admin. Tokens are compared and kept as their
    SHA-256, so what a comparison takes says nothing about a token. What the database answers is kept for two seconds,
    so that a busy client does not cost a query for each request.
    """

    def __init__(self, store: Store, own: str = "", is_open: bool = False) -> None:
        self._store, self._is_open = store, is_open
        self._own = tokens.digest(own) if own else ""
        self._kept: dict[str, tuple[float, str | None, str]] = {}
        self._good: set[str] = set()  # those that held when last looked up, whatever else is tried

    async def caller(self, headers: Mapping[str, str], address: str, strangers: Rate) -> Caller:
        """Raises Refused: 401 without a token that holds, 429 for an address that tries too many of them."""
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
        """Raises Refused where the caller's token was revoked or has expired since."""
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
        """Until when the answer holds, the scope, and why there is none."""
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
    """A dependency that lets through who has the scope; gives the scope that the caller has."""

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
    """Whom the gate let in (`nas.service.gate`); without one there is no answer."""
    caller: Caller = request.state.caller
    return caller


def _refuse_other_sites(headers: Mapping[str, str], address: str) -> None:
    """A browser sends what pages of other sites ask for: by their own origin, or by a name that they pointed here."""
    site, origin = headers.get("sec-fetch-site", ""), headers.get("origin", "")
    if site not in ("", "same-origin", "none") or (
        not site and origin and urlsplit(origin).netloc != headers.get("host")
    ):
        raise Refused(403, "a page of another site asked for this")
    if address and _host(headers) not in LOCAL_NAMES:  # over a Unix socket there is no address
        raise Refused(401, "without a token this server answers to localhost, 127.0.0.1 and [::1] alone")


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
        """0.0 where the request may pass, and is counted."""
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
