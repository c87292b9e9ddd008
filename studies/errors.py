"""Errors of the database."""

from __future__ import annotations


class StoreError(Exception):
    """The database cannot be used as requested; the message names it, the reason and the remedy."""


class StoreUnavailable(StoreError):
    """Locked, on a full disk, or an unreachable server: a retry may succeed."""


class LeaseLost(StoreError):
    """Another process has taken over the study's lease."""


class UnknownStudy(StoreError):
    """No study has this name."""


class StudyExists(StoreError):
    """A study with this name exists already."""


class StudyBusy(StoreError):
    """A process is working on the study, so it can't be renamed or deleted now."""


class InvalidText(StoreError):
    """A name, tag or note is too long, empty or not printable."""
