"""`nas extract`."""

from __future__ import annotations

import argparse
import json

from nas.cli.display import table
from nas.extraction import Selection
from nas.extraction import extract as extract_network


def extract(options: argparse.Namespace) -> int:
    select = Selection(options.trial, options.knee, options.max_latency)
    done = extract_network(
        options.study, options.out, db=options.db, select=select, overwrite=options.overwrite
    )
    if options.json:
        report = {
            "folder": str(done.folder),
            "trial": done.trial,
            "difference": done.difference,
            **done.numbers,
        }
        print(json.dumps(report))
        return 0
    table(("quantity", "value"), [(n.replace("_", " "), f"{v:,.6g}") for n, v in done.numbers.items()])
    print(
        f"trial {done.trial}: logits differ from the supernet's by at most {done.difference:.2g}; run.py was run once"
    )
    print(f"try it: python {done.folder}/run.py")
    return 0
