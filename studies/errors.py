"""Errors of the database."""

from __future__ import annotations


class StoreError(Exception):
    """The database can't be used as asked; the message says which one, why, and what would be right."""


class StoreUnavailable(StoreError):
    """Locked, on a full disk, or a server that does not answer: what failed may be done later."""


class LeaseLost(StoreError):
    """Another process drives the study."""


class UnknownStudy(StoreError):
    """No study has this name."""


class StudyExists(StoreError):
    """A study has this name already."""


class StudyBusy(StoreError):
    """Somebody is working at the study, so that it can't be renamed or deleted now."""


class InvalidText(StoreError):
    """A name, tag or note that is too long, empty or not printable."""
