"""Locations of data between runs: studies in a database; supernets, device profiles and caches in a folder."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_DB = "sqlite:///nas.db"


def home() -> Path:
    """The folder in the environment variable NAS_HOME, else one in the user's data folder."""
    if "NAS_HOME" in os.environ:
        return Path(os.environ["NAS_HOME"])
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return data / "efficient-transformer-nas"


def default_db() -> str:
    """The URL of the default database: $NAS_DB or sqlite:///nas.db."""
    return os.environ.get("NAS_DB", DEFAULT_DB)
