"""A study as JSON for the page, the report and the notebook."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from studies.comparison import reference_point
from studies.latencies import NOT_TIMED, Latencies
from studies.pareto import hypervolume_over_time
from studies.records import Study, Trial
from studies.worth import handed_over

MAX_POINTS = 400


def columns(
    study: Study, trials: list[Trial], best: list[Trial], latencies: Latencies = NOT_TIMED
) -> dict[str, Any]:
    """Trials as lists by number, the numbers of the front and of its knee, and latencies in ms by `arch_id`."""
    knee = handed_over(study, trials, best, latencies)
    return {
        "number": [t.number for t in trials],
        "state": [t.state for t in trials],
        "values": {o.name: [t.values.get(o.name) for t in trials] for o in study.objectives},
        "front": [t.number for t in best],
        "latencies": dict(latencies),
        "knee": None if knee is None else knee.number,
    }


def growth(study: Study, trials: list[Trial], best: list[Trial]) -> list[tuple[int, float]]:
    """(number of trials, hypervolume as a share of the last) at about MAX_POINTS trials; [] without a front."""
    if not best:
        return []
    curve = hypervolume_over_time(trials, study.objectives, reference_point([trials], study.objectives))
    step = max(1, len(curve) // MAX_POINTS)
    at = sorted({*range(0, len(curve), step), len(curve) - 1})
    last = float(curve[-1]) or 1.0
    return [(i + 1, float(curve[i]) / last) for i in at]


def to_json(document: Any) -> bytes:
    """Strict JSON, with null for numbers that are not finite."""
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(document), allow_nan=False, separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def full(trial: Trial) -> dict[str, Any]:
    """A trial with its architecture and its blocks for a drawing."""
    hidden = ("worker", "arch")
    shown = {n: v for n, v in vars(trial).items() if n not in hidden}
    return {**shown, "arch": trial.arch, "blocks": blocks(trial.arch)}


def blocks(arch: dict[str, Any]) -> list[dict[str, Any]]:
    """For each block what a drawing shows: names of mixer, ffn and norm, widths, and bits of the weights."""
    widths = [s["d_model"] for s in arch.get("stages", []) for _ in range(s["num_blocks"])]
    found = []
    for i, block in enumerate(arch["blocks"]):
        mixer, ffn = block["mixer"], block["ffn"]
        found.append(
            {
                "mixer": mixer["op"],
                "ffn": ffn["op"],
                "norm": block.get("norm", {}).get("op", "none"),
                "placement": block.get("placement", ""),
                "d_model": widths[i] if i < len(widths) else arch["d_model"],
                "d_ff": ffn.get("d_ff"),
                "bits": _bits(block.get("quant", {})),
                "items": {"mixer": _items(mixer), "ffn": _items(ffn)},
            }
        )
    return found


def _items(op: dict[str, Any]) -> str:
    plain = {n: v for n, v in op.items() if n != "op" and not isinstance(v, dict)}
    return ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in plain.items())


def _bits(quant: dict[str, Any]) -> int | None:
    """The smallest number of bits of a block's formats; None if all are of the workload's dtype."""
    names = (f if isinstance(f, str) else f.get("weights", "native") for f in quant.get("roles", {}).values())
    found = (re.search(r"\d+", name) for name in names)
    return min((int(digits[0]) for digits in found if digits), default=None)
