"""`nas trust`: the supernet of a study against baselines and against networks trained alone."""

from __future__ import annotations

import argparse
import json

from nas.cli.display import blocks, table
from nas.errors import UsageError
from nas.trust import Report, examine


def trust(options: argparse.Namespace) -> int:
    """Exit status 1 where a loss or ranking of the supernet means nothing."""
    if options.networks < 3 or options.steps < 10:
        raise UsageError(
            f"--networks {options.networks} --steps {options.steps}: at least 3 networks and 10 steps"
        )
    on_network = (
        None if options.json else lambda done, total: print(f"trained alone: {done} of {total}", flush=True)
    )
    report = examine(
        options.study, db=options.db, networks=options.networks, steps=options.steps, on_network=on_network
    )
    checks = _checks(report)
    if options.json:
        print(json.dumps({"checks": checks, **_numbers(report)}))
        return 0 if all(checks.values()) else 1
    networks = sorted(report.networks, key=lambda n: n.alone)
    header = ("trained alone", "inherited", "parameters", "network")
    rows = [
        (f"{n.alone:.3f}", f"{n.inherited:.3f}", f"{n.parameters:,}", blocks(n.arch.to_json()))
        for n in networks
    ]
    table(header, rows)
    numbers = [(name.replace("_", " "), f"{value:.3f}") for name, value in _numbers(report).items()]
    table(("quantity", "nats, or tau"), numbers)
    for text, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {text}")
    return 0 if all(checks.values()) else 1


def _numbers(report: Report) -> dict[str, float]:
    return {
        "largest_network": report.largest,
        "largest_without_mixers": report.largest_without_mixers,
        **{f"baseline_{name}": value for name, value in report.baselines.items()},
        "kendall_inherited_loss": report.kendall_inherited,
        "kendall_parameters": report.kendall_parameters,
    }


def _checks(report: Report) -> dict[str, bool]:
    hardest = min(report.baselines.values())
    return {
        "the largest network's inherited loss is below every baseline": report.largest < hardest,
        "without mixers it is worse": report.largest_without_mixers > report.largest,
        "inherited loss ranks networks better than their parameter count": report.kendall_inherited
        > report.kendall_parameters,
    }
