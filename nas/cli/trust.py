"""`nas trust`: compares a study's inherited losses, or its rungs, with baselines and networks trained alone."""

from __future__ import annotations

import argparse
import json

from nas.cli.display import Display, blocks, table
from nas.setup.preparation import Step
from nas.truth.trust import Climbed, Report, examine, examine_rungs


def trust(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if the supernet or a rung fails a check of its losses or rankings."""
    climbed = examine_rungs(options.study, db=options.db)
    if climbed is not None:
        return _show_climbed(climbed, options.json)
    with Display(quiet=options.json) as display:
        what = "inherited losses" if options.table else "training alone"
        report = examine(
            options.study,
            db=options.db,
            networks=options.networks,
            steps=options.steps,
            table=options.table,
            on_network=lambda done, total: display.hooks.on_step(Step(what, done, total)),
        )
    checks = _checks(report)
    if options.json:
        intervals = {
            "interval_inherited_loss": report.kendall_inherited.to_json(),
            "interval_parameters": report.kendall_parameters.to_json(),
        }
        print(json.dumps({"checks": checks, **_numbers(report), **intervals}))
        return 0 if all(checks.values()) else 1
    networks = sorted(report.networks, key=lambda n: n.alone)
    header = ("trained alone", "inherited", "parameters", "network")
    rows = [
        (f"{n.alone:.3f}", f"{n.inherited:.3f}", f"{n.parameters:,}", blocks(n.arch.to_json()))
        for n in networks
    ]
    table(header, rows)
    inherited, parameters = report.kendall_inherited, report.kendall_parameters
    print(f"tau with losses of {len(rows)} networks trained alone, {report.alone}, and its 95 % interval:")
    print(f"inherited loss {inherited}, number of parameters {parameters}")
    numbers = [(name.replace("_", " "), f"{value:.3f}") for name, value in _numbers(report).items()]
    table(("quantity", "nats, or tau"), numbers)
    for text, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {text}")
    return 0 if all(checks.values()) else 1


def _show_climbed(climbed: Climbed, as_json: bool) -> int:
    """Returns the exit status: 1 if a rung is not shown to rank better than parameter count."""
    worse = [r.rung for r in climbed.rungs if not r.tau.value > climbed.parameters.value]
    rows = [(f"loss at {r.rung}", r.count, str(r.tau)) for r in climbed.rungs]
    rows.append(("number of parameters", climbed.count, str(climbed.parameters)))
    if as_json:
        rungs = {r.rung: {"count": r.count, **r.tau.to_json()} for r in climbed.rungs}
        print(
            json.dumps({"rungs": rungs, "parameters": climbed.parameters.to_json(), "worse_than_size": worse})
        )
        return 1 if worse else 0
    table(("judged by", "networks", "tau with the loss after the whole training"), rows)
    if worse:
        print(f"not known to be better than the number of parameters: {', '.join(worse)}")
    elif climbed.rungs:
        print("each rung ranks better than the number of parameters")
    else:
        print("too few networks were evaluated at a rung to tell how well it ranks them")
    return 1 if worse else 0


def _numbers(report: Report) -> dict[str, float]:
    return {
        "largest_network": report.largest,
        "largest_without_mixers": report.largest_without_mixers,
        **{f"baseline_{name}": value for name, value in report.baselines.items()},
        "kendall_inherited_loss": report.kendall_inherited.value,
        "kendall_parameters": report.kendall_parameters.value,
    }


def _checks(report: Report) -> dict[str, bool]:
    hardest = min(report.baselines.values())
    return {
        "the largest network's inherited loss is below every baseline": report.largest < hardest,
        "without mixers it is worse": report.largest_without_mixers > report.largest,
        "inherited loss ranks networks better than their parameter count": report.kendall_inherited.value
        > report.kendall_parameters.value,
    }
