"""Tokens of the service: who may read, run and administer. Only hashes are stored.

A token is 256 random bits, so its SHA-256 can't be searched for; it is shown once, when it is made.
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
    """`expires_at` is in seconds since 1970, None for never; `is_expired` by the clock of the database."""

    name: str
    scope: str
    created_at: str
    expires_at: float | None
    is_expired: bool


def new() -> str:
    """A token that nobody knows, the database neither."""
    return f"nas_{secrets.token_urlsafe(32)}"


def digest(token: str) -> str:
    """What a token is compared and kept by: its SHA-256, so that the time of a comparison tells nothing about it."""
    return hashlib.sha256(token.encode()).hexdigest()


def create(store: Store, name: str, scope: str, seconds: float | None = None) -> str:
    """Store a new token that holds for `seconds` (None: until it is revoked). Returns it; it can't be read again."""
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
    """All that were not revoked, in the order in which they were made."""
    query = _select(store).order_by(_TOKENS.id)
    return [_token(row) for row in store.read(lambda c: c.execute(query).all())]


def revoke(store: Store, name: str) -> None:
    statement = delete(tables.tokens).where(_TOKENS.name == name)
    if not store.write(lambda c: c.execute(statement).rowcount):
        known = ", ".join(t.name for t in tokens(store)) or "none"
        raise StoreError(f"no token {name!r}; known: {known}")


def find(store: Store, hashed: str) -> Token | None:
    """Whose token has this digest; None for an unknown or revoked one."""
    query = _select(store).where(_TOKENS.hash == hashed)
    row = store.read(lambda c: c.execute(query).first())
    return _token(row) if row else None


def _select(store: Store) -> Any:
    holds = or_(_TOKENS.expires_at.is_(None), _TOKENS.expires_at > store.clock)
    return select(_TOKENS.name, _TOKENS.scope, _TOKENS.created_at, _TOKENS.expires_at, holds)


def _token(row: Any) -> Token:
    name, scope, created_at, expires_at, holds = row
    return Token(name, scope, created_at, expires_at, not holds)
