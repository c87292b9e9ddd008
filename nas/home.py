"""Where trained supernets, device profiles and other large results are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`NAS_HOME`, else the user's data folder."""
    if "NAS_HOME" in os.environ:
        return Path(os.environ["NAS_HOME"])
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return data / "efficient-transformer-nas"
