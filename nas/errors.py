"""Errors that a user can act on. The command line prints their message and exits with status 2.

StoreError            the database can't be used (newer schema, full disk, locked), or lacks the requested record
NasError
+-- UsageError        an option, a file or a name is invalid
+-- ArtifactError     a checkpoint, profile or extracted folder is missing or damaged
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from studies.errors import StoreError

__all__ = ["ArtifactError", "Infeasible", "NasError", "StoreError", "UsageError"]


class NasError(Exception):
    """Base of errors whose message is one sentence for the user."""


class UsageError(NasError):
    """An invalid option, file or name; the message names the option, the given value and what is valid."""


class ArtifactError(NasError):
    """A missing or damaged file; the message names it and what is wrong."""


class Infeasible(Exception):
    """Raised by an evaluator that stops early, because quantities violate their bounds by `violations`."""

    def __init__(self, violations: Mapping[str, float], values: Mapping[str, float] | None = None) -> None:
        super().__init__(", ".join(f"{name} misses its bound by {v:g}" for name, v in violations.items()))
        if not violations or not all(0 < v < math.inf for v in violations.values()):
            raise ValueError(f"a violation is a finite positive number by quantity, got {dict(violations)}")
        self.violations = dict(violations)
        self.values = dict(values or {})
