"""How well inherited losses rank the networks of studies/results/truth/tiny-lm, and what changes that.

Every variant trains by the recipe tiny-lm, except for what its name says. A network's inherited loss is compared with
its loss after individual training, over all networks of the table. The interval is over resampled networks; the gain
over the plain recipe is over the same resamples. Losses are stored in studies/results/agreement, so that an interrupted
benchmark continues. The trivial baseline is the number of parameters.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nas.evaluation.inherited import InheritedQuality, quality
from nas.home import home
from nas.request.recipe import load_recipe
from nas.tasks.load import load_task
from nas.training.alone import train_alone
from nas.training.checkpoint import supernet_key
from nas.training.supernet_trainer import train_supernet
from nas.truth.readers import read
from predictors.timing import num_threads
from searchspace.load import load_space
from studies.agreement import Estimate, Floats, agreement
from tests.benchmarks.rows import Row

SPACE, RECIPE = load_space("tiny-lm"), load_recipe("tiny-lm")
TRUTH, FOLDER = Path("studies/results/truth/tiny-lm"), Path("studies/results/agreement")
BASE = "as in the recipe"
OWN_RATE = 3e-3  # half of the learning rate for random weights
OWN = "own_steps"  # training steps of each network alone, after it was cut out
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "half the steps": {"steps": 350},
    "20 steps of its own for each network": {OWN: 20},
}


def run() -> list[Row]:
    table = read(TRUTH)
    found = {name: losses(name, changes) for name, changes in VARIANTS.items()}
    assert table.curves is not None
    early = agreement(-table.curves[:, 0], table.quality, table.strata, table.baselines["parameters"])
    size = agreement(table.baselines["parameters"], table.quality, table.strata)
    rows = [
        _row("tau, parameters", size.overall["kendall"]),
        _row("tau, mean loss of the first 50 steps alone", early.overall["kendall"]),
        _row("tau among networks of a size, mean loss of the first 50 steps alone", early.within["kendall"]),
    ]
    for name, judged in found.items():
        ranks = partial(agreement, -judged, table.quality, table.strata)
        alone, over_base = ranks(table.baselines["parameters"]), ranks(-found[BASE])
        assert alone.gain is not None
        assert over_base.gain is not None
        note = f"over parameters {alone.gain}"
        if name != BASE:
            note += f"; over {BASE} {over_base.gain}"
        rows.append(_row(f"tau, {name}", alone.overall["kendall"], "0.7", note))
        rows.append(_row(f"tau among networks of a size, {name}", alone.within["kendall"]))
    return rows


def _row(name: str, found: Estimate, aim: str = "", note: str = "") -> Row:
    return Row(name, found.value, found.lower, found.upper, "95 % interval", aim, note)


def losses(name: str, changes: dict[str, Any]) -> Floats:
    """Return the inherited loss [n] in nats of each network of the table under a variant."""
    path, archs = FOLDER / "losses.jsonl", read(TRUTH).archs
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in kept:
        if line["changes"] == changes:
            return np.array([line["losses"][a.id] for a in archs])
    task = load_task(SPACE.data, stem=SPACE.stem, head=SPACE.head)
    settings = replace(RECIPE.training, **{n: v for n, v in changes.items() if n != OWN})
    key = supernet_key(SPACE, task, settings)
    steps = changes.get(OWN, 0)
    own = replace(RECIPE.alone, steps=max(1, steps), warmup_steps=steps // 10, learning_rate=OWN_RATE)
    with num_threads(1):
        shared = train_supernet(SPACE, task, settings, home() / "supernets" / key)
        judge = InheritedQuality.of(shared, task, RECIPE.validation_examples, RECIPE.batch_size)
        found = {}
        for arch in archs:
            model = judge.network(arch, copy=True)
            if steps:
                model = train_alone(arch, task, own, model).model
            found[arch.id] = quality(model, judge.validation)["loss"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"variant": name, "changes": changes, "losses": found}) + "\n")
    return np.array([found[a.id] for a in archs])
