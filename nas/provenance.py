"""Where a figure is from: stands beside every figure that a command prints as JSON or a benchmark keeps."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path


def provenance(device: str = "cpu", threads: int = 1) -> dict[str, str]:
    """The device by name, the software, the commit and the time."""
    from predictors.device import device_name, software

    return {
        "device": device_name(device, threads),
        "software": software(),
        "commit": source_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def source_commit() -> str:
    """The commit of the checkout that this code runs from, with `+` where files differ from it; "" elsewhere."""
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
