"""The built-in judge: maps an architecture to the values of a study's objectives, computing cheap ones first.

Bounds on cheap values are checked before expensive values are computed, so most infeasible networks cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nas.content import supernet_of, task_of
from nas.errors import Infeasible
from nas.evaluation.costs import cost_of
from nas.evaluation.inherited import InheritedQuality
from nas.evaluation.trained import TrainedQuality, recovery_of
from nas.importing.load import imported
from nas.request.recipe import Recipe
from nas.tasks.base import Task
from nas.tasks.metrics import Forward, metrics_of
from nas.training.placement import device_of
from predictors.device import DeviceProfile
from predictors.lookup import OperatorTable, Prediction
from proxies import registry as proxy_registry
from proxies.batch import Batch
from searchspace.kernels import dispatch
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec
from searchspace.spec.space import SpaceSpec
from studies.fidelity import PROXY, SHARES, at
from studies.records import Objective

PROXY_BATCH = 16

Stage = Callable[[ArchSpec], Mapping[str, float]]


def build(
    space: dict[str, Any],
    recipe: dict[str, Any],
    objectives: list[dict[str, Any]],
    supernet: str,
    profile: str,
    device: str = "cpu",
    kernels: str = "torch",
) -> Judge:
    """A judge from JSON: the factory that workers call. `supernet` and `profile` are folders, "" if not needed.

    On a CPU it uses one thread: networks this small gain little from more, values are then reproducible to the last
    bit, and `--runner pool` uses the other cores for other trials.
    """
    torch.set_num_threads(1)
    dispatch.select(kernels)
    return of(
        SpaceSpec.from_json(space),
        Recipe.from_json(recipe),
        [Objective.from_json(o) for o in objectives],
        Path(supernet),
        Path(profile),
        device,
    )


def of(
    space: SpaceSpec,
    recipe: Recipe,
    objectives: Sequence[Objective],
    supernet: Path,
    profile: Path,
    device: str = "cpu",
) -> Judge:
    sources = {o.source for o in objectives}
    own = "supernet" if "inherited" in sources else "train" if "trained" in sources else ""
    stages: list[Stage] = [CostStage(recipe, [o.name for o in objectives if o.source == "cost"])]
    if "predicted" in sources:
        table = OperatorTable.of_profile(DeviceProfile.load(profile), space.name)
        stages.append(lambda arch: _latency(table.latency(arch, recipe.workload)))
    task = task_of(recipe, space)
    judged = [o.name for o in objectives if o.source in ("inherited", "trained")]
    metrics = metrics_of(judged, task, _original(recipe.model, device) if recipe.model else None)
    if "proxy" in sources:
        stages.append(ProxyStage(task, [o.name for o in objectives if o.source == "proxy"], recipe.seed))

    recovery = None
    if recipe.model and "trained" in sources:
        recovery = recovery_of(recipe, space, task, supernet, device_of(device))

    @cache
    def trained() -> TrainedQuality:
        return TrainedQuality.of(task, recipe, recipe.alone.seed, device_of(device), recovery, metrics)

    def rung(name: str) -> Stage:
        if name == "proxy":
            return ProxyStage(task, [PROXY], recipe.seed)
        if name == "supernet" and recovery is None:
            shared = supernet_of(supernet, space, task, device)
            return InheritedQuality.of(shared, task, recipe.validation_examples, recipe.batch_size, metrics)
        share = {"supernet": 0.0, **SHARES}.get(name, 1.0)
        return trained().until(share)

    rungs = {name: rung(name) for name in recipe.ladder}
    return Judge(stages, rungs | ({"": rung(own)} if own else {}), objectives)


def _original(folder: str, device: str) -> Callable[[], Forward]:
    """A function that loads the imported model in `folder` and returns its map from a batch to outputs."""

    def load() -> Forward:
        model = imported(folder).model().to(device_of(device))
        return lambda batch: model.decoded(batch.inputs, Tokens(valid=batch.valid))

    return load


class Judge:
    """Computes `stages` for every trial, then the quality in `rungs` of its fidelity, "" for the study's own.

    Calling it raises Infeasible, with the values so far, as soon as a value violates a bound.
    """

    def __init__(self, stages: list[Stage], rungs: dict[str, Stage], objectives: Sequence[Objective]) -> None:
        self.stages, self.rungs, self.objectives = stages, rungs, objectives

    def __call__(self, arch: ArchSpec, fidelity: str = "") -> dict[str, float]:
        values: dict[str, float] = {}
        bounds = [o for o in at(fidelity, self.objectives) if o.lower is not None or o.upper is not None]
        for stage in (*self.stages, *(s for f, s in self.rungs.items() if f == fidelity)):
            values.update(stage(arch))
            missed = {o.name: _violation(o, values) for o in bounds if o.name in values}
            missed = {name: amount for name, amount in missed.items() if amount > 0}
            if missed:
                raise Infeasible(missed, values)
        return values


def _violation(objective: Objective, values: Mapping[str, float]) -> float:
    """By how much a value violates a bound; a predicted one violates an upper bound if its interval's end does."""
    value = values[objective.name]
    return max(objective.violation(value), objective.violation(values.get(f"{objective.name}_high", value)))


def _latency(predicted: Prediction) -> dict[str, float]:
    return {"latency": predicted.value_ms, "latency_high": predicted.high_ms}


class CostStage:
    """Costs of the architecture, in the units of QUANTITIES."""

    def __init__(self, recipe: Recipe, names: list[str]) -> None:
        self.recipe, self.names = recipe, names

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        return {name: cost_of(name, arch, self.recipe) for name in self.names}


class ProxyStage:
    """Training-free scores on one fixed batch. Raises ValueError with the reason for a score that is not a number."""

    def __init__(self, task: Task, names: list[str], seed: int) -> None:
        self.names, self.seed = names, seed
        examples = task.batch(0, PROXY_BATCH, seed)
        self.batch = Batch(examples.inputs, examples.targets, examples.valid)

    def __call__(self, arch: ArchSpec) -> dict[str, float]:
        with dispatch.use("torch"):  # on the CPU, whatever the study's device
            scores = proxy_registry.score(self.names, arch, self.batch, self.seed)
        for name, score in scores.items():
            if score.reason:
                raise ValueError(f"{name}: {score.reason}")
        return {name: score.value for name, score in scores.items()}
