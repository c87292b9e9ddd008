"""`nas extract`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from nas.cli.arguments import bounds
from nas.cli.display import Display, table
from nas.cli.options import given
from nas.errors import UsageError
from nas.export.card import origin
from nas.export.folder import Extraction
from nas.export.formats import Export
from nas.extraction import Selection, extracted
from nas.request.schema import ExtractRequest


def extract(options: argparse.Namespace) -> int:
    """Write the folder; returns the exit status 0. Raises UsageError unless exactly one way to select is given."""
    wanted = bounds(options.min, options.max)
    if (options.trial is not None) + options.knee + bool(wanted) != 1:
        raise UsageError("which network: give --knee, or --trial N, or bounds such as --max latency=2")
    with Display(quiet=options.json) as display:
        asked: dict[str, Any] = {"study": options.study, "out": options.out, "on_step": display.on_step}
        asked["select"] = Selection(options.trial, wanted)
        done = extracted(ExtractRequest.of(given(ExtractRequest, options) | asked))
    show(done, options.json)
    return 0


def show(done: Extraction, as_json: bool) -> None:
    """Print what was written, as JSON or as tables."""
    if as_json:
        forms = [e.to_json() for e in done.exports]
        print(json.dumps({"folder": str(done.folder), **done.origin, **done.numbers, "exports": forms}))
        return
    table(("quantity", "value"), [(n.replace("_", " "), f"{v:,.6g}") for n, v in done.numbers.items()])
    if done.exports:
        show_exports(done.exports)
    print(f"{origin(done.origin)}: run.py was run once and reproduces the stated loss")
    print(f"try it: python {done.folder}/run.py")


def show_exports(exports: Sequence[Export]) -> None:
    """Print a line for each exported format: its deviation and its latency on one CPU thread."""
    rows = []
    for e in exports:
        steps = f"{e.agreed} of {e.decoded}" if e.decoded else "-"
        latency = "-" if e.latency is None else f"{e.latency.value:.4g}"
        length = str(e.length) if e.length else "any"
        rows.append((e.format, e.file, e.implementation, length, f"{e.difference:.2g}", steps, latency))
    header = ("format", "file", "runs in", "length", "difference", "greedy steps equal", "latency (ms)")
    table(header, rows)
    for sentence in (sentence for e in exports for sentence in e.limits):
        print(sentence)
    if any(e.latency is None for e in exports if e.format != "folder"):  # a folder's latency may be simulated
        print("a file is timed only for a forward pass in float32 of a length that it accepts")
