"""`nas linearize`: replaces attention layers and prints errors per layer, losses of the network and latencies."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from nas.cli.display import Display, table
from nas.export.folder import CONFIG
from nas.files import check_folder
from nas.importing.load import ARCH
from nas.linearize import pipeline
from nas.linearize.routes import chosen_layers, named_route
from nas.linearize.source import read_model
from nas.provenance import provenance

HEADINGS = {
    "teacher": "as it was",
    "copied": "new mixers, its projections",
    "transferred": "after attention transfer",
    "recovered": "after recovery",
}


def linearize(options: argparse.Namespace) -> int:
    out, route = Path(options.out), named_route(options.route)
    model = Path(options.model)
    check_folder(out, options.overwrite, sources=[model / CONFIG, model / ARCH, options.data or ""])
    source = read_model(model, options.data)
    layers = chosen_layers(options.layers, source.model.arch, route)
    longest = source.model.arch.stem["max_len"]
    window = options.window or min(64, max(1, longest // 4))
    settings = pipeline.Settings(options.transfer_steps, options.recovery_steps, window=window)
    with Display(quiet=options.json) as display:
        done = pipeline.linearize(source, layers, route, settings, display.on_step)
    pipeline.write(source, route, done, out, options.overwrite)
    if options.json:
        print(json.dumps(provenance() | to_json(done) | {"folder": str(out), "window": window}))
        return 0
    show(done)
    print(f"try it: python {out}/run.py")
    return 0


def to_json(done: pipeline.Linearized) -> dict[str, object]:
    return {
        "layers": [asdict(r) for r in done.layers],
        "losses": done.losses,
        "latencies": [asdict(r) for r in done.latencies],
    }


def show(done: pipeline.Linearized) -> None:
    rows = [
        (
            str(r.layer),
            f"{r.error_before:.4f}",
            f"{r.error_after:.4f}",
            f"{r.loss_copied:.4f}",
            f"{r.loss_transferred:.4f}",
        )
        for r in done.layers
    ]
    header = (
        "layer",
        "error copied",
        "error transferred",
        "loss up to it, copied",
        "loss up to it, transferred",
    )
    table(header, rows)
    table(("network", "held-out loss"), [(HEADINGS[n], f"{v:.4f}") for n, v in done.losses.items()])
    lines = []
    for r in done.latencies:
        before, after = (f"{m.value:.4g}" if m else "-" for m in (r.teacher, r.student))
        ratio = f"{r.student.value / r.teacher.value:.2f}" if r.teacher and r.student else r.reason
        lines.append((str(r.length), before, after, ratio))
    table(("tokens", "before (ms)", "after (ms)", "after / before"), lines)
