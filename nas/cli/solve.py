"""`nas solve`: assembles a network within budgets from block scores; prints its predicted and measured loss."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nas.api import opened
from nas.blocks.choose import Costs, Trust, best_within, check, check_bounds, mix_n_match
from nas.blocks.library import Entry, Library
from nas.blocks.stored import costs_of, library_of
from nas.cli.arguments import bounds
from nas.cli.display import Display, table
from nas.cli.extract import show as show_folder
from nas.content import sources_of
from nas.errors import UsageError
from nas.evaluation.quantities import QUANTITIES
from nas.extraction import Parent
from nas.files import check_folder
from nas.provenance import provenance
from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.reading import unknown
from searchspace.spec.space import SpaceSpec
from searchspace.validity import violations

METHODS = {"exact": best_within, "mix-n-match": mix_n_match}


def solve(options: argparse.Namespace) -> int:
    """Returns the exit status 0. Raises UsageError for invalid budgets or options, and if no network meets them."""
    limits = {name: float(upper) for name, (_, upper) in bounds([], options.max).items() if upper is not None}
    if not limits:
        raise UsageError("--max is missing: give a budget such as --max latency=1.5")
    check_bounds(limits)
    if options.method not in METHODS:
        raise UsageError(f"--method: {unknown(options.method, METHODS)}")
    if options.check < 0 or 0 < options.check < 3:
        raise UsageError(f"--check {options.check}: give at least 3 networks, or 0 for none")
    with closing(opened(options.db)) as store:
        study = store.study(options.study)
        if options.out:
            check_folder(options.out, options.overwrite, sources=sources_of(study), db=options.db)
        parent = Parent.of(store, study)
        with Display(quiet=options.json) as display:
            library, costs = library_of(parent, display.on_step), costs_of(parent)
        chosen = METHODS[options.method](library, costs, limits)
        arch = library.network(chosen)
        missed = violations(arch, SpaceSpec.from_json(parent.study.space).constraints, parent.recipe.workload)
        if missed:
            raise UsageError(
                f"--max: the study's own bound on {', '.join(missed)} is violated; add it as --max"
            )
        found = _stated(parent, library, costs, chosen, arch)
        trust = (
            check(library, costs, lambda a: parent.judged(a)["loss"], options.check)
            if options.check
            else None
        )
        done = None
        if options.out:
            origin = {"from": f"solved by {options.method} for {_listed(limits)}"}
            predicted = {n: v for n, v in found.items() if n == "latency"}
            formats, overwrite = options.format, options.overwrite
            done = parent.write(
                arch, Path(options.out), origin, predicted=predicted, formats=formats, overwrite=overwrite
            )
    if options.json:
        print(json.dumps(_report(arch, found, trust) | ({"folder": str(done.folder)} if done else {})))
        return 0
    _show(library, arch, found, trust)
    if done:
        show_folder(done, as_json=False)
    return 0


def _stated(
    parent: Parent, library: Library, costs: Costs, chosen: Sequence[Entry], arch: ArchSpec
) -> dict[str, float]:
    """The parent's loss, the network's predicted and measured loss, and its costs."""
    base = parent.judged(library.parent)["loss"]
    names = [n for n, q in QUANTITIES.items() if q.cost or (n == "latency" and costs.table is not None)]
    losses = {
        "parent_loss": base,
        "predicted_loss": base + library.delta(chosen),
        "loss": parent.judged(arch)["loss"],
    }
    return losses | dict(zip(names, costs.of(arch, names).tolist(), strict=True))


def _report(arch: ArchSpec, found: Mapping[str, float], trust: Trust | None) -> dict[str, Any]:
    report: dict[str, Any] = {"arch": arch.to_json(), "arch_id": arch.id, **found}
    return (
        provenance() | report | ({"check": vars(trust) | {"mean_error": trust.mean_error}} if trust else {})
    )


def _show(library: Library, arch: ArchSpec, found: Mapping[str, float], trust: Trust | None) -> None:
    deltas = {(e.layer, e.slot, e.spec): e.delta for e in library.entries}
    rows = []
    for i, (block, own) in enumerate(zip(arch.blocks, library.parent.blocks, strict=True)):
        if own.is_active:
            lost = sum(deltas[i, slot, getattr(block, slot)] for slot in ("mixer", "ffn"))
            mixer, ffn = short(block.mixer, own.mixer), short(block.ffn, own.ffn)
            rows.append((str(i), mixer, ffn, f"{lost:+.4f}"))
    table(("block", "mixer", "ffn", "loss against the parent's (nats)"), rows)
    units = {name: QUANTITIES[name].unit for name in found if name in QUANTITIES}
    lines = [(f"{n.replace('_', ' ')} {units.get(n, 'nats')}".strip(), f"{v:,.6g}") for n, v in found.items()]
    table(("quantity", "value"), lines)
    if trust:
        print(
            f"{len(trust.measured)} random networks of the table: predicted and measured loss agree with Kendall tau "
            f"{trust.kendall:.2f}, Spearman {trust.spearman:.2f} (by parameters alone tau {trust.by_parameters:.2f}); "
            f"mean error {trust.mean_error:.3f} nats"
        )


def short(spec: OpSpec, own: OpSpec) -> str:
    """An operator, with only the settings that differ from `own`, the parent's operator."""
    known = dict(own.items) if spec.op == own.op else {}
    differing = [f"{name}={value}" for name, value in spec.items if known.get(name) != value]
    if spec == own:
        return f"{spec.op}, unchanged"
    return f"{spec.op}({', '.join(differing)})" if differing else spec.op


def _listed(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} at most {value:g}" for name, value in limits.items())
