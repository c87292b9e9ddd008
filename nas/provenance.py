"""The provenance of numbers, added to all numbers that a command prints as JSON or a benchmark stores."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path


def provenance(device: str = "cpu", threads: int = 1) -> dict[str, str]:
    """The names of device and software, the source commit and the UTC time."""
    from predictors.device import device_name, software

    return {
        "device": device_name(device, threads),
        "software": software(),
        "commit": source_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def source_commit() -> str:
    """The commit of this code's checkout, with `+` for uncommitted changes; "" if it is no checkout."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()
