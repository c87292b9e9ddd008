"""`nas truth build`: trains the architectures of a design, one row of the table each, in any number of runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.content import identified, located, task_of
from nas.errors import UsageError
from nas.evaluation import trained
from nas.execution.outcome import Evaluate
from nas.execution.pool import PoolRunner
from nas.execution.worker import EvaluatorSpec
from nas.files import put_text
from nas.machine import num_cores
from nas.provenance import provenance
from nas.request.recipe import Recipe, load_recipe
from nas.truth.design import Entry, design
from searchspace.cost import cost
from searchspace.kernels import dispatch
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.fidelity import SHARES
from studies.records import Objective, Outcome, Trial
from studies.truth import TruthRow, append, read_shard, repair

EVALUATOR = "nas.truth.build:with_rungs"
RECIPE = "recipe.toml"
RUNG = "loss_after_"
MORE_SEEDS = 2

OnRow = Callable[[int, int, float], None]  # finished rows, their total, loss in nats


def build(
    space: SpaceSpec,
    recipe: Recipe,
    count: int,
    folder: Path,
    *,
    seed: int = 0,
    workers: int = 0,
    device: str = "cpu",
    kernels: str = "torch",
    on_row: OnRow,
) -> list[str]:
    """Train the networks that this design's shard lacks; returns a sentence for each network that failed.

    They are trained on `device`, where operators run by `kernels`. `seed` selects the architectures, so another seed
    makes another shard. Every network is trained with the recipe's seed, and those marked in the design with
    MORE_SEEDS further ones. Raises UsageError if the folder's networks were trained with another recipe or other data.
    """
    recipe = located(recipe, space)
    recipe = identified(recipe, task_of(recipe, space))
    shard = folder / f"shard-{seed}.csv"
    if shard.exists():
        repair(shard)
    done = {(r.arch.id, r.seed) for r in read_shard(shard)} if shard.exists() else set()
    _check_origin(shard.with_suffix(".json"))
    _same_recipe(folder, recipe)
    with dispatch.use(kernels):
        made = _provenance(space, count, seed, device)
    put_text(
        shard.with_suffix(".json"), json.dumps(made, indent=1) + "\n"
    )  # written first, since a run may be stopped
    entries = design(space, count, seed)
    first = recipe.alone.seed
    plan = [(e, first) for e in entries]
    plan += [(e, first + more) for e in entries if e.more_seeds for more in range(1, MORE_SEEDS + 1)]

    def spec(number: int) -> EvaluatorSpec:
        where = {"device": device, "kernels": kernels}
        return EvaluatorSpec(
            EVALUATOR, {"space": space.to_json(), "recipe": recipe.to_json(), "seed": number, **where}
        )

    failures = []
    finished = len(done)
    for number in sorted({s for _, s in plan}):
        left = [e for e, s in plan if s == number and (e.arch.id, s) not in done]
        for entry, outcome in _train(spec(number), left, workers or num_cores()):
            finished += 1
            if outcome.error:
                failures.append(f"{entry.arch.id}, seed {number}: {outcome.error}")
                continue
            append(shard, [_row(entry, number, outcome, recipe.workload)])
            on_row(finished, len(plan), outcome.values["loss"])
    return failures


def with_rungs(**settings: Any) -> Evaluate:
    """The factory that workers call: an evaluation after each of SHARES of the training and at its end."""
    judge = trained.build(**settings)

    def evaluate(arch: ArchSpec) -> dict[str, float]:
        rungs = {RUNG + name: judge.until(share)(arch)["loss"] for name, share in SHARES.items()}
        return judge(arch) | rungs

    return evaluate


def _provenance(space: SpaceSpec, count: int, seed: int, device: str) -> dict[str, Any]:
    """How a shard was made; its recipe is stored in a separate file."""
    return {
        "space": f"{space.name} {space.version}",
        "architectures": count,
        "design_seed": seed,
        **provenance(device),
    }


def _train(spec: EvaluatorSpec, entries: list[Entry], workers: int) -> Iterator[tuple[Entry, Outcome]]:
    """Train the entries in a pool; yields outcomes in the order in which trainings end."""
    if not entries:
        return
    runner = PoolRunner(spec, [Objective("loss", source="trained")], min(workers, len(entries)))
    try:
        for number, entry in enumerate(entries):
            runner.submit(Trial(number, entry.arch.to_json(), entry.arch.id))
        ended = 0
        while ended < len(entries):
            for outcome in runner.wait():
                ended += 1
                yield entries[outcome.number], outcome
    finally:
        runner.close()


def _row(entry: Entry, seed: int, outcome: Outcome, workload: Workload) -> TruthRow:
    values = outcome.values
    curve = tuple(v for name, v in values.items() if name.startswith("train_loss_"))
    flops = cost(entry.arch, workload).flops
    return TruthRow(
        entry.arch,
        entry.group,
        seed,
        entry.parameters,
        flops,
        values["loss"],
        values["accuracy"],
        curve,
        outcome.seconds or 0.0,
        tuple(values[RUNG + name] for name in SHARES),
    )


def _check_origin(path: Path) -> None:
    """Raises UsageError if `path`, where the shard's provenance is stored, is another file."""
    try:
        is_ours = not path.exists() or "design_seed" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"--out {path.parent}: its file {path.name} was not written by nas; name another folder"
        )


def _same_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe, or keep an existing one. Raises UsageError if that one gives other weights or losses."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECIPE
    if not path.exists():
        put_text(path, recipe.to_toml())
        return
    there = load_recipe(recipe.space, str(path))
    if _decisive(there) != _decisive(recipe):
        raise UsageError(
            f"--out {folder}: its networks were trained by another recipe; name another folder, "
            f"or pass --recipe {path}"
        )
    if there.data_id != recipe.data_id and (there.data_id or there.data != recipe.data):
        raise UsageError(
            f"--out {folder}: its networks were trained on {there.data or 'the data of the space'} with the content id "
            f"{there.data_id or '(unknown)'}, not on {recipe.data or 'that of the space'} with the content id "
            f"{recipe.data_id}; name another folder"
        )


def _decisive(recipe: Recipe) -> tuple[object, ...]:
    """The parts of a recipe that determine the numbers of a table, apart from the data."""
    return recipe.space, recipe.alone, recipe.validation_examples, recipe.batch_size
