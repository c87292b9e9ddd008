"""Opens the database for processes that a supervisor restarts, which may start while it is unavailable."""

from __future__ import annotations

from studies.patience import Patience, say
from studies.store import Store


def open_patiently(url: str) -> Store:
    """A store that waits for temporary failures, also while opening, and reports waiting on standard error."""
    patience = Patience.endless(say)
    return patience.retry(lambda: Store(url, patience))
