"""What goes wrong in ways a user can act on. The command line prints the sentence and exits with status 2.

    NasError
    +-- UsageError        an option, a file or a name is not what it has to be
    +-- StoreError        the database can't be used (newer schema, full disk, locked)
    +-- ArtifactError     a checkpoint, profile or extracted folder is missing or damaged
"""

from __future__ import annotations

from studies.errors import StoreError

__all__ = ["ArtifactError", "NasError", "StoreError", "UsageError"]


class NasError(Exception):
    """Base of the errors that carry one clear sentence for the user."""


class UsageError(NasError):
    """Names the option, the value given, and what would be right."""


class ArtifactError(NasError):
    """Names the file and what is wrong with it."""
