"""`nas token`: creates, lists and revokes the tokens of the service."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from datetime import UTC, datetime

from nas.api import default_db, opened
from nas.cli.arguments import minutes
from nas.cli.listing import listing
from nas.errors import UsageError
from studies import tokens
from studies.store import Store


def token(options: argparse.Namespace) -> int:
    """Returns the exit status 0. Raises UsageError for a missing name, or one given with `list`."""
    if bool(options.name) != (options.action != "list"):
        raise UsageError(f"token {options.action}: {'takes no name' if options.name else 'name the token'}")
    begins = options.action == "create"  # the first token may come before the first study
    with closing(Store(options.db or default_db()) if begins else opened(options.db)) as store:
        if options.action == "create":
            return _create(store, options)
        if options.action == "revoke":
            tokens.revoke(store, options.name)
            print(json.dumps({"revoked": options.name}) if options.json else f"{options.name} is revoked")
            return 0
        return _list(tokens.tokens(store), options.json)


def _create(store: Store, options: argparse.Namespace) -> int:
    holds = minutes(options.expires, "--expires")
    made = tokens.create(store, options.name, options.scope, None if holds is None else 60 * holds)
    if options.json:
        print(json.dumps({"name": options.name, "scope": options.scope, "token": made}))
        return 0
    print(made)
    print(f"scope {options.scope}; store it now, it is not shown again")
    return 0


def _list(found: list[tokens.Token], as_json: bool) -> int:
    rows = [(t.name, t.scope, t.created_at[:16], _until(t)) for t in found]
    empty = "no tokens: nas token create NAME --scope read"
    return listing(as_json, [vars(t) for t in found], ("token", "scope", "created", "until"), rows, empty)


def _until(token: tokens.Token) -> str:
    if token.expires_at is None:
        return "revoked by hand"
    when = datetime.fromtimestamp(token.expires_at, UTC).isoformat(timespec="minutes")
    return f"{when}, expired" if token.is_expired else when
