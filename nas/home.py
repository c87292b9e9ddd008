"""Where things are kept between runs: studies in a database, supernets, device profiles and the like in a folder."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_DB = "sqlite:///nas.db"


def home() -> Path:
    """`NAS_HOME`, else the user's data folder."""
    if "NAS_HOME" in os.environ:
        return Path(os.environ["NAS_HOME"])
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return data / "efficient-transformer-nas"


def default_db() -> str:
    """The URL of the database that is used where none is named."""
    return os.environ.get("NAS_DB", DEFAULT_DB)
