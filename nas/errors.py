"""What goes wrong in ways a user can act on. The command line prints the sentence and exits with status 2.

StoreError            the database can't be used (newer schema, full disk, locked), or does not hold what was asked for
NasError
+-- UsageError        an option, a file or a name is not what it has to be
+-- ArtifactError     a checkpoint, profile or extracted folder is missing or damaged
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from studies.errors import StoreError

__all__ = ["ArtifactError", "Infeasible", "NasError", "StoreError", "UsageError"]


class NasError(Exception):
    """Base of the errors that carry one clear sentence for the user."""


class UsageError(NasError):
    """Names the option, the value given, and what would be right."""


class ArtifactError(NasError):
    """Names the file and what is wrong with it."""


class Infeasible(Exception):
    """Raised by an evaluator that stops early: cheap quantities miss their bounds by `violations`."""

    def __init__(self, violations: Mapping[str, float], values: Mapping[str, float] | None = None) -> None:
        super().__init__(", ".join(f"{name} misses its bound by {v:g}" for name, v in violations.items()))
        if not violations or not all(0 < v < math.inf for v in violations.values()):
            raise ValueError(f"a violation is a finite positive number by quantity, got {dict(violations)}")
        self.violations = dict(violations)
        self.values = dict(values or {})
