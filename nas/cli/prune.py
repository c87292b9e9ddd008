"""`nas prune`: prunes a network to a budget, by one method or by all in comparison."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nas.blocks.pruning import METHODS, CostOf, Pruned, compare, write
from nas.cli.arguments import bounds
from nas.cli.display import Display, table
from nas.errors import UsageError
from nas.evaluation.costs import cost_of
from nas.evaluation.quantities import QUANTITIES
from nas.export.folder import CONFIG
from nas.files import check_folder
from nas.home import home
from nas.importing.load import ARCH
from nas.importing.space import judged_length
from nas.linearize.source import read_model
from nas.provenance import provenance
from nas.request.recipe import Recipe
from searchspace.spec.arch import ArchSpec
from searchspace.spec.reading import unknown
from searchspace.spec.workload import Workload

ALL = "all"


def prune(options: argparse.Namespace) -> int:
    """Returns the exit status 0. Raises UsageError for an invalid budget, method, model or output folder."""
    if len(options.max) != 1:
        raise UsageError("--max: give one budget, such as --max flops=60%")
    if options.method not in (ALL, *METHODS):
        raise UsageError(f"--method: {unknown(options.method, (ALL, *METHODS))}")
    folder, text = Path(options.model), options.max[0]
    name = text.partition("=")[0].strip()
    known = [n for n, q in QUANTITIES.items() if q.source == "cost" or n == "latency"]
    if name not in known:
        raise UsageError(f"--max: {unknown(name, known, 'quantity')}")
    (_, limit) = bounds([], [text.removesuffix("%")])[name]
    assert limit is not None
    QUANTITIES[name].check(None, limit)
    if options.out:
        check_folder(
            options.out, options.overwrite, sources=[folder / CONFIG, folder / ARCH, options.data or ""]
        )
    source = read_model(folder, options.data)
    recipe = Recipe(space=source.name, workload=Workload(seq_len=judged_length(source.model.arch.stem)))
    cost = _cost(name, recipe.changed(rates=options.rates or None))
    whole = cost(source.model.arch)
    budget = whole * limit / 100 if text.endswith("%") else limit
    if budget >= whole:
        raise UsageError(f"--max {text}: the network already has only {whole:,.6g}; give less")
    methods = list(METHODS) if options.method == ALL else [options.method]
    with Display(quiet=options.json) as display:
        done = compare(source, methods, cost, budget, name, display.on_step)
    best = min(done[1:], key=lambda each: each.numbers["loss"])
    if options.out:
        write(source, best, f"{name} of at most {budget:.6g}", Path(options.out), options.overwrite)
    if options.json:
        rows = [_row(each, name) for each in done]
        print(json.dumps(provenance() | {"budget": {name: budget}, "networks": rows, "folder": options.out}))
        return 0
    unit = QUANTITIES[name].unit
    header = ("method", f"{name.replace('_', ' ')} {unit}".strip(), "loss", "accuracy", "heads", "FFN units")
    table(header, [_line(each) for each in done])
    if options.out:
        print(f"{best.method} has the smallest loss: python {options.out}/run.py")
    return 0


def _cost(name: str, recipe: Recipe) -> CostOf:
    """A function from a network to quantity `name`, in its unit. Raises UsageError if latency can't be predicted."""
    if name != "latency":
        return lambda arch: cost_of(name, arch, recipe)
    from predictors.device import DeviceProfile
    from predictors.lookup import OperatorTable
    from predictors.profiling import local_profile_folder

    folder = local_profile_folder(recipe.workload, home() / "profiles")
    if not (folder / "profile.toml").is_file():
        raise UsageError(
            f"--max latency: this device is not profiled for {recipe.workload}; run `nas profile --space SPACE "
            f"--seq-len {recipe.workload.seq_len}` with the model's space.toml, or bound estimated_latency"
        )
    latencies = OperatorTable(DeviceProfile.load(folder))

    def latency(arch: ArchSpec) -> float:
        try:
            return latencies.latency(arch, recipe.workload).value_ms
        except ValueError as error:
            raise UsageError(f"--max latency: {error}") from error

    return latency


def _row(each: Pruned, name: str) -> dict[str, Any]:
    return {"method": each.method, name: each.cost, **each.numbers, "arch": each.model.arch.to_json()}


def _line(each: Pruned) -> tuple[str, ...]:
    blocks = each.model.arch.blocks
    heads = " ".join(
        str(b.mixer["num_groups"] * b.mixer["heads_per_group"]) for b in blocks if b.mixer.get("num_groups")
    )
    units = " ".join(str(b.ffn["d_ff"]) for b in blocks if b.ffn.get("d_ff"))
    numbers = (f"{each.numbers[n]:.4f}" for n in ("loss", "accuracy"))
    return (each.method, f"{each.cost:,.6g}", *numbers, heads, units)
