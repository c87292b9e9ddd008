"""The device profiles that are shipped or were measured here, with their predictors' errors on held-out networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.home import home
from predictors.device import SHIPPED, DeviceProfile, known_profiles
from predictors.lookup import MIN_NETWORKS, OperatorTable


def device_rows() -> list[dict[str, Any]]:
    """One row for each device, workload and space; "error" is the relative error on held-out networks."""
    return [
        _described(folder, profile, space)
        for folder, profile in known_profiles([SHIPPED, home() / "profiles"]).items()
        for space in dict.fromkeys(row.space for row in profile.networks)
    ]


def _described(folder: Path, profile: DeviceProfile, space: str) -> dict[str, Any]:
    count = sum(row.space == space for row in profile.networks)
    error = OperatorTable.of_profile(profile, space).correction.error if count >= MIN_NETWORKS else None
    return {
        "device": profile.device,
        "runtime": profile.runtime,
        "workload": str(profile.workload),
        "space": space,
        "operators": len(profile.operators),
        "networks": count,
        "error": error,
        "adapted_from": profile.adapted_from,
        "software": profile.software,
        "measured_at": profile.measured_at,
        "shipped": SHIPPED in folder.parents,
        "folder": str(folder),
    }
