"""The database as the processes open it that others start again: they may come up while it is away."""

from __future__ import annotations

from studies.patience import Patience, say
from studies.store import Store


def open_patiently(url: str) -> Store:
    """A store that waits for whatever may pass, its opening included, and says so on standard error."""
    patience = Patience.endless(say)
    return patience.retry(lambda: Store(url, patience))
