"""A study as HTML: one file that opens offline, and a fragment for notebooks.

The file contains the study's data and the drawing code, style and chart library of the service's page.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas.presentation.result import Result
from nas.presentation.scripts import STATIC, joined
from nas.presentation.study import blocks, columns, full, growth, to_json
from searchspace.spec.measurement import Measurement
from studies.records import TrialState
from studies.report import draw_front
from studies.worth import floor_of

MAX_FAILURES = 200
MAX_SHOWN = 12
COLOURS = ("#5b8c8f", "#d9a05b", "#8a7bb5", "#7ba05b", "#c97b7b", "#6f93c4", "#b58d6a", "#5fa38b")


def report(result: Result, measurements: Sequence[Measurement] = (), worth: str = "") -> str:
    """The HTML file of a study, with architectures only for the front.

    Of `measurements` it shows those of the front's networks in quantities that the search predicted. `worth` is the
    sentence that compares the front with the plain networks.
    """
    style = STATIC.joinpath("style.css").read_text(encoding="utf-8")
    library = STATIC.joinpath("vendor", "echarts.min.js").read_text(encoding="utf-8")
    script = joined("offline.js").replace("</script", "<\\/script")
    title = html.escape(result.study.name)
    # "</script>" inside a JSON string would end the script element
    data = to_json(_data(result, measurements, worth)).decode().replace("<", "\\u003c")
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="main"></main>
<script type="application/json" id="data">{data}</script>
<script>{library}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def fragment(result: Result) -> str:
    """The front as HTML for a notebook: a picture and a table of networks."""
    names = "".join(f"<th>{html.escape(o.name)} {html.escape(o.unit)}</th>" for o in result.study.objectives)
    step = max(1, len(result.front) // MAX_SHOWN)
    rows = "".join(
        f"<tr><td>{t.number}</td>"
        + "".join(f"<td>{t.values[o.name]:.4g}</td>" for o in result.study.objectives)
        + f"<td>{_drawing(t.arch)}</td></tr>"
        for t in result.front[::step]
    )
    counted = f"{len(result.front)} of {len(result.trials)} trials are on the front"
    table = f"<table><tr><th>trial</th>{names}<th>blocks, input left</th></tr>{rows}</table>"
    return f"<b>{html.escape(result.study.name)}</b>: {counted}<br>{_picture(result)}{table}"


def _data(result: Result, measurements: Sequence[Measurement], worth: str) -> dict[str, Any]:
    study, trials = result.study, result.trials
    shown = ("name", "searcher", "seed", "max_trials", "state", "code_version", "created_at")
    by_arch = {t.arch_id: t for t in result.front}
    predicted = {o.name for o in study.objectives if o.source == "predicted"}
    finished = [t for t in trials if t.is_finished]
    failed = [t for t in trials if t.state == TrialState.FAILED][-MAX_FAILURES:]
    return {
        "study": {
            **{n: getattr(study, n) for n in shown},
            "space": study.space["name"],
            "objectives": [o.to_json() for o in study.objectives],
        },
        "worth": worth,
        "columns": columns(study, finished, result.front, result.latencies),
        "seconds": [t.seconds for t in finished],
        "networks": {t.number: full(t) for t in result.front},
        "failures": {t.number: t.error for t in failed},
        "hypervolume": growth(study, finished, result.front),
        "measurements": [
            {
                "number": by_arch[m.subject].number,
                "predicted": by_arch[m.subject].values.get(m.quantity),
                "value": m.value,
                "unit": m.unit,
                "device": m.device,
                "runtime": m.implementation,
            }
            for m in measurements
            if m.subject in by_arch and m.quantity in predicted and study.concerns(m)
        ],
    }


def _picture(result: Result) -> str:
    if len(result.study.objectives) not in (2, 3) or not result.front:
        return ""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "front.png"
        floor = floor_of(result.study, result.trials)
        draw_front(path, result.trials, result.study.objectives, floor=floor, latencies=result.latencies)
        encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="front" width="640" src="data:image/png;base64,{encoded}"><br>'


def _drawing(arch: dict[str, Any]) -> str:
    """An SVG with a column per block: mixer above ffn, coloured by operator, the ffn's height showing its width."""
    found = blocks(arch)
    operators = sorted({b[kind] for b in found for kind in ("mixer", "ffn")} - {"none"})
    colour = {"none": "#d9d8d1"} | {o: COLOURS[_place(o)] for o in operators}
    widest = max((b["d_ff"] or 1 for b in found), default=1)
    parts = []
    for i, block in enumerate(found):
        height = 2 if block["ffn"] == "none" else 4 + 14 * (block["d_ff"] or widest) / widest
        title = html.escape(f"{block['mixer']}, {block['ffn']} {block['d_ff'] or ''}, {block['norm']}")
        parts.append(
            f"<g><title>{title}</title>"
            f'<rect x="{i * 20}" y="0" width="17" height="12" rx="2" fill="{colour[block["mixer"]]}"/>'
            f'<rect x="{i * 20}" y="14" width="17" height="{height:.1f}" rx="2" fill="{colour[block["ffn"]]}"/></g>'
        )
    return f'<svg width="{20 * len(found)}" height="33">{"".join(parts)}</svg>'


def _place(name: str) -> int:
    """The index of an operator's colour in COLOURS, the same in every drawing."""
    return sum(name.encode()) % len(COLOURS)
