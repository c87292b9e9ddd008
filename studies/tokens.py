"""Tokens of the service: who may read, run and administer. Only hashes are stored.

A token is 256 random bits, so its SHA-256 can't be inverted by search; it is shown only when it is created.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, or_, select
from sqlalchemy.exc import IntegrityError

from studies import rows, tables
from studies.errors import StoreError
from studies.store import Store

SCOPES = ("read", "run", "admin")
"""Each allows what those before it allow."""

_TOKENS = tables.tokens.c
_NAME = re.compile(r"[\w.@-]{1,64}")


@dataclass(frozen=True)
class Token:
    """`expires_at` is in seconds since 1970, None for never; `is_expired` uses the database's clock."""

    name: str
    scope: str
    created_at: str
    expires_at: float | None
    is_expired: bool


def new() -> str:
    """Return a new random token, which is not stored."""
    return f"nas_{secrets.token_urlsafe(32)}"


def digest(token: str) -> str:
    """Return the SHA-256 by which a token is stored and compared: the time of a comparison then reveals nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def create(store: Store, name: str, scope: str, seconds: float | None = None) -> str:
    """Store a new token that is valid for `seconds` (None: until revoked) and return it; it can't be read again.

    Raises StoreError for an unknown scope, an invalid name, or a name in use.
    """
    if scope not in SCOPES:
        raise StoreError(f"unknown scope {scope!r}; known: {', '.join(SCOPES)}")
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} can't name a token: give 1 to 64 letters, digits, dots, dashes, @ or underscores"
        )
    token = new()
    row = {"name": name, "scope": scope, "hash": digest(token), "created_at": rows.now()}
    expires_at = None if seconds is None else store.clock + seconds
    try:
        store.write(lambda c: c.execute(insert(tables.tokens).values(**row, expires_at=expires_at)))
    except IntegrityError:
        raise StoreError(
            f"a token named {name!r} exists already: revoke it, or choose another name"
        ) from None
    return token


def tokens(store: Store) -> list[Token]:
    """Return all tokens that were not revoked, in order of creation."""
    query = _select(store).order_by(_TOKENS.id)
    return [_token(row) for row in store.read(lambda c: c.execute(query).all())]


def revoke(store: Store, name: str) -> None:
    """Delete a token. Raises StoreError where there is none of this name."""
    statement = delete(tables.tokens).where(_TOKENS.name == name)
    if not store.write(lambda c: c.execute(statement).rowcount):
        known = ", ".join(t.name for t in tokens(store)) or "none"
        raise StoreError(f"no token {name!r}; known: {known}")


def find(store: Store, hashed: str) -> Token | None:
    """Return the token with this digest; None for an unknown or revoked one."""
    query = _select(store).where(_TOKENS.hash == hashed)
    row = store.read(lambda c: c.execute(query).first())
    return _token(row) if row else None


def _select(store: Store) -> Any:
    holds = or_(_TOKENS.expires_at.is_(None), _TOKENS.expires_at > store.clock)
    return select(_TOKENS.name, _TOKENS.scope, _TOKENS.created_at, _TOKENS.expires_at, holds)


def _token(row: Any) -> Token:
    name, scope, created_at, expires_at, holds = row
    return Token(name, scope, created_at, expires_at, not holds)
