"""`nas devices`: the device profiles that are shipped or were measured here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nas.cli.display import table
from nas.home import home


def devices(options: argparse.Namespace) -> int:
    """One line for each device, workload and space, with the error of its predictor on left-out networks."""
    from predictors.device import SHIPPED, DeviceProfile, known_profiles
    from predictors.lookup import MIN_NETWORKS, OperatorTable

    def described(folder: Path, profile: DeviceProfile, space: str) -> dict[str, object]:
        count = sum(row.space == space for row in profile.networks)
        error = OperatorTable.of_profile(profile, space).correction.error if count >= MIN_NETWORKS else None
        return {
            "device": profile.device,
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

    found = known_profiles([SHIPPED, home() / "profiles"])
    rows = [
        described(folder, profile, space)
        for folder, profile in found.items()
        for space in dict.fromkeys(row.space for row in profile.networks)
    ]
    if options.json:
        print(json.dumps({"devices": rows}))
        return 0
    lines = [
        (
            r["device"],
            r["workload"],
            r["space"],
            r["operators"],
            r["networks"],
            "" if r["error"] is None else f"{r['error']:.1%}",
            "shipped" if r["shipped"] else r["adapted_from"] or "measured here",
        )
        for r in rows
    ]
    header = ("device", "workload", "space", "operators", "networks", "error", "from")
    table(header, lines, empty="no device is known: run nas profile")
    return 0
