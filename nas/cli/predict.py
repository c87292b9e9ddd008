"""`nas predict`: compares predicted with measured latencies, on this device or on a published table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nas.cli.display import Display, table
from nas.cli.options import given
from nas.errors import UsageError
from nas.provenance import provenance
from nas.request.schema import EvaluateRequest
from nas.setup.preparation import Step

if TYPE_CHECKING:
    from predictors.table_evaluation import TableRow

SECONDS = 25.0
DRAWS = 10
OF_RATES = {"device", "dtype"}  # options that apply to peak rates


def predict(options: argparse.Namespace) -> int:
    """Returns the exit status 0. Raises UsageError if options of different kinds of evaluation are combined."""
    timed = given(EvaluateRequest, options)
    if options.action == "rates":
        return _rates(timed, options)
    if options.table is not None and timed:
        flag = f"--{next(iter(timed)).replace('_', '-')}"
        raise UsageError(
            f"{flag} is for networks timed on this device; give it with --space, not with --table"
        )
    if options.table is not None:
        return _on_table(options)
    if options.source or options.draws is not None:
        raise UsageError(f"{f'--source {options.source[0]}' if options.source else '--draws'} needs --table")
    if "space" not in timed:
        raise UsageError("--space is missing: give --space, or --table with published latencies")
    return _on_space(EvaluateRequest.of(timed), options)


def _rates(timed: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Print this device's peak rates in the form that --rates takes."""
    others = [*(timed.keys() - OF_RATES), *(["table"] if options.table is not None else [])]
    if others:
        flag = f"--{others[0].replace('_', '-')}"
        raise UsageError(f"{flag} is for predict evaluate; predict rates takes only --device and --dtype")
    from predictors.network_bench import dtype_of
    from predictors.roofline import measured_rates
    from searchspace.spec.workload import Workload

    request = EvaluateRequest.of(timed)
    found = measured_rates(request.device, dtype_of(Workload(dtype=request.dtype)))
    print(json.dumps({**asdict(found), **provenance()}) if options.json else found)
    return 0


def _on_space(request: EvaluateRequest, options: argparse.Namespace) -> int:
    from nas.cli.profile import asked, full_profile, report

    space, workload = asked(request)
    made = full_profile(request, space, workload, SECONDS, options.json)
    return report(request, space, made, options.json, options.seed)


def _on_table(options: argparse.Namespace) -> int:
    from predictors.latency_tables import read_table
    from predictors.table_evaluation import evaluate_table

    published, draws = read_table(Path(options.table)), options.draws or DRAWS
    with Display(quiet=options.json) as display:
        display.start()
        rows = evaluate_table(
            published,
            [read_table(Path(path)) for path in options.source],
            draws=draws,
            seed=options.seed,
            on_device=lambda done, of: display.on_step(Step("devices", done, of)),
        )
    if options.json:
        print(json.dumps({**provenance(), "form": published.form, "rows": [asdict(row) for row in rows]}))
        return 0
    print(
        f"{published.form}, {len(published.widths)} networks; median error on the networks outside the samples, over "
        f"{draws} draws of samples"
    )
    header = (
        "device",
        "samples",
        "ridge on 12",
        "alone",
        "transfer",
        "less",
        "floor",
        "Spearman",
        "in a width",
        "from",
    )
    table(header, [_cells(row) for row in rows])
    for samples in dict.fromkeys(row.samples for row in rows):
        print(_summary([row for row in rows if row.samples == samples], samples))
    return 0


def _cells(row: TableRow) -> tuple[str, ...]:
    return (
        row.device,
        str(row.samples),
        *(f"{error:.2%}" for error in (row.ridge, row.alone, row.transfer)),
        f"{1 - row.transfer / row.ridge:.0%}",
        f"{row.floor:.2%}",
        f"{row.spearman:.3f}",
        f"{row.spearman_within:.3f}",
        ", ".join(f"{name} {count}" for name, count in row.sources.items()),
    )


def _summary(rows: Sequence[TableRow], samples: int) -> str:
    less = [1 - row.transfer / row.ridge for row in rows]
    most = [1 - row.floor / row.ridge for row in rows]
    return (
        f"{samples} samples: error reduced by {median(less):.0%} against the ridge (median over {len(rows)} devices), "
        f"{min(less):.0%} at worst; the median error is {median(row.transfer for row in rows):.2%}. "
        f"A smooth model of all networks (floor) reduces it by {median(most):.0%} (median), {min(most):.0%} at worst"
    )
