"""Who may do what: loopback without a token, everybody else with one whose scope suffices.

A browser on this machine runs pages of other sites, and those reach loopback too: a request without a token therefore
has to name this machine as its host, and must not come from a page of another one. Behind a proxy every request comes
from loopback, so one that was forwarded needs a token.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studies import tokens
from studies.store import Store
from studies.tokens import SCOPES

KEPT_SECONDS = 2.0
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_bearer = HTTPBearer(auto_error=False, description="`nas token create NAME --scope read|run|admin`")


class Tokens:
    """Answers of the database kept for two seconds, so that a busy client does not cost a query for each request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str, tuple[float, str | None, str]] = {}

    async def scope(self, token: str) -> tuple[str | None, str]:
        """The scope that the token gives, or None and why it gives none."""
        known = self._kept.get(token)
        if known is None or time.monotonic() >= known[0]:
            known = await run_in_threadpool(self._look_up, token)
            if len(self._kept) > 1000:
                self._kept.clear()
            self._kept[token] = known
        return known[1], known[2]

    def _look_up(self, token: str) -> tuple[float, str | None, str]:
        found = tokens.find(self._store, token)
        until = time.monotonic() + KEPT_SECONDS
        if found is None:
            return until, None, "the token is unknown or was revoked"
        if found.is_expired:
            return until, None, "the token has expired"
        if found.expires_at is not None:
            until = min(until, time.monotonic() + max(0.0, found.expires_at - time.time()))
        return until, found.scope, found.name


def needs(scope: str) -> Callable[..., Awaitable[str]]:
    """A dependency that lets through who has the scope; gives the scope that the caller has."""

    async def check(
        request: Request,
        credentials: HTTPAuthorizationCredentials | None = Depends(_bearer),  # noqa: B008
    ) -> str:
        has = await _scope_of(request, credentials)
        if SCOPES.index(has) < SCOPES.index(scope):
            raise HTTPException(403, f"this needs a token of scope {scope}; yours has scope {has}")
        return has

    return check


async def _scope_of(request: Request, credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is not None:
        held: Tokens = request.app.state.tokens
        scope, about = await held.scope(credentials.credentials)
        if scope is None:
            raise HTTPException(401, about, headers={"WWW-Authenticate": "Bearer"})
        return scope
    if not is_local(request):
        raise HTTPException(
            401,
            "a token is needed: `nas token create` makes one, and it goes into the header Authorization: Bearer",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if (origin := request.headers.get("origin")) and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "a page of another site asked for this")
    return "admin"


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, by a name of this machine, and was not forwarded."""
    if any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip")):
        return False
    try:
        is_loopback = ipaddress.ip_address(request.client.host if request.client else "").is_loopback
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return is_loopback and host in LOCAL_NAMES


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
