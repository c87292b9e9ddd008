"""Does every causal mixer learn? Trains the largest network of `everything` with one mixer in all blocks.

Losses are stored as JSON lines, so that a stopped run continues. Baselines: the network without mixers, whose spread
over three seeds is the noise, and the entropy of the best bigram model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.evaluation.inherited import quality
from nas.provenance import provenance
from nas.request.recipe import load_recipe
from nas.tasks.load import load_task
from nas.training.alone import train_alone
from nas.training.sandwich import Sandwich
from searchspace.load import load_space
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.genome import Encoding
from searchspace.validity import why_invalid
from tests.benchmarks.rows import Row

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "mixers" / "losses.jsonl"
SPACE = load_space("everything")
STEPS = 300


def networks() -> list[tuple[str, int, ArchSpec]]:
    """Return (mixer, seed, network), with each mixer's first drawn setting that is valid in every block."""
    largest = Sandwich(SPACE, num_random=0, seed=0).largest
    encoding = Encoding(SPACE)
    found: dict[str, ArchSpec] = {}
    for row in encoding.random(3000, np.random.default_rng(0)).tolist():
        for drawn in encoding.decode(tuple(row)).blocks:
            if drawn.mixer.op not in found:
                arch = replace(largest, blocks=tuple(replace(b, mixer=drawn.mixer) for b in largest.blocks))
                if why_invalid(arch) is None:
                    found[drawn.mixer.op] = arch
    # it knows tokens but not positions: rotary positions, the space's only ones, don't apply to it
    learned = replace(found["min_attention"], position=OpSpec("learned"))
    found["min_attention, learned positions"] = learned
    return [
        (name, seed, found[name])
        for name in sorted(found)
        for seed in ((0, 1, 2) if name == "none" else (0,))
    ]


def run() -> list[Row]:
    task = load_task(SPACE.data, stem=SPACE.stem, head=SPACE.head)
    settings = replace(load_recipe("tiny-lm").alone, steps=STEPS)
    validation = task.validation(512, 128)
    known = {(r["mixer"], r["seed"]): r for r in _read()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for name, seed, arch in networks():
        if (name, seed) in known:
            continue
        trained = train_alone(arch, task, replace(settings, seed=seed))
        row = {
            "mixer": name,
            "seed": seed,
            "loss": quality(trained.model, validation)["loss"],
            "arch": arch.id,
            "steps": STEPS,
            **provenance(),
        }
        known[name, seed] = row
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    bigram = task.baseline_losses()["split_bigram_entropy"]
    rows = [_row("bigram entropy", bigram)]
    for (name, seed), r in sorted(known.items(), key=lambda item: float(item[1]["loss"])):
        rows.append(_row(f"{name}, seed {seed}", r["loss"]))
    return rows


def _row(name: str, loss: float) -> Row:
    return Row(name, loss, loss, loss, "nats")


def _read() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
