"""`nas devices`: lists the device profiles that are shipped or were measured here."""

from __future__ import annotations

import argparse

from nas.cli.listing import listing


def devices(options: argparse.Namespace) -> int:
    """Print a line for each device, workload and space, with the predictor's error on held-out networks."""
    from nas.presentation.devices import device_rows

    rows = device_rows()
    lines = [
        (
            r["device"],
            r["runtime"],
            r["workload"],
            r["space"],
            r["operators"],
            r["networks"],
            "" if r["error"] is None else f"{r['error']:.1%}",
            "shipped" if r["shipped"] else r["adapted_from"] or "measured here",
        )
        for r in rows
    ]
    header = ("device", "runtime", "workload", "space", "operators", "networks", "error", "from")
    return listing(options.json, {"devices": rows}, header, lines, "no device is known: run nas profile")
