"""`nas truth`: trains networks alone, keeps them as a table, and compares their spread with the noise of seeds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nas.cli.options import given
from nas.request.recipe import Recipe, load_recipe
from nas.request.schema import TruthRequest
from nas.setup.plan import check_device, check_kernels, named_space
from studies.truth import PROBE, TruthRow, noise, read_table

MIN_RATIO = 4.0  # least variance among architectures of a group, over that of seeds, for a meaningful ranking


def build(options: argparse.Namespace) -> int:
    from nas.cli.display import Display
    from nas.setup.preparation import Step
    from nas.truth.build import build as build_table

    request = TruthRequest.of(given(TruthRequest, options))
    check_device(request.device)
    check_kernels(request.kernels, request.device)
    space = named_space(request.space)
    recipe = load_recipe(request.space, request.recipe)
    recipe = Recipe.from_json({**recipe.to_json(), "space": space.name})
    with Display(quiet=options.json) as display:

        def on_row(done: int, total: int, loss: float) -> None:
            display.hooks.on_step(Step("training alone", done, total, f"loss {loss:.3f}"))

        folder = Path(request.out)
        failures = build_table(
            space,
            recipe,
            request.count,
            folder,
            seed=request.design_seed,
            workers=request.workers,
            device=request.device,
            kernels=request.kernels,
            on_row=on_row,
        )
    rows = read_table(folder)
    _print(rows, failures, options.json)
    return 1 if failures else 0


def show(options: argparse.Namespace) -> int:
    _print(read_table(Path(options.table)), [], options.json)
    return 0


def _print(rows: list[TruthRow], failures: list[str], as_json: bool) -> None:
    found = noise(rows)
    probes = _probes(rows)
    if as_json:
        print(json.dumps(_numbers(rows) | {"probes": probes, "failures": failures}))
        return
    from nas.cli.display import table

    lines = []
    for group, sd in sorted(found.groups.items(), key=lambda item: int(item[0])):
        losses = [r.loss for r in rows if r.group == group]
        lines.append(
            (f"{int(group):,}", str(len(losses)), f"{min(losses):.3f} to {max(losses):.3f}", f"{sd:.4f}")
        )
    table(("parameters", "trainings", "loss in nats", "spread of architectures"), lines)
    table(
        ("largest network, every mixer", "seeds", "loss in nats"),
        [(name, str(len(v)), f"{sum(v) / len(v):.4f}") for name, v in probes.items()],
    )
    print(
        f"standard deviation of the loss of one architecture over seeds: {found.seed_sd:.4f} nats "
        f"({found.num_repeated} architectures were repeated)"
    )
    verdict = (
        "enough to rank"
        if found.ratio >= MIN_RATIO
        else f"below {MIN_RATIO:.0f}: ranks inside a group are mostly noise"
    )
    print(
        f"variance among networks of one size, divided by the variance over seeds: {found.ratio:.1f}, {verdict}"
    )
    for failure in failures:
        print(f"failed: {failure}")


def _numbers(rows: list[TruthRow]) -> dict[str, Any]:
    found = noise(rows)
    return {
        "trainings": len(rows),
        "architectures": len({r.arch.id for r in rows}),
        "seed_sd": found.seed_sd,
        "group_sd": found.groups,
        "overall_sd": found.overall_sd,
        "variance_ratio": found.ratio,
    }


def _probes(rows: list[TruthRow]) -> dict[str, list[float]]:
    """Losses in nats of the networks that use one mixer in all blocks, by mixer, lowest mean first."""
    losses: dict[str, list[float]] = {}
    for row in rows:
        if row.group == PROBE:
            losses.setdefault(row.arch.blocks[0].mixer.op, []).append(row.loss)
    return dict(sorted(losses.items(), key=lambda item: sum(item[1]) / len(item[1])))
