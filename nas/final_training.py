"""Trains networks of the front alone, to find the best one without shared weights.

Inherited losses rank networks well enough for a search, but are much higher than the losses after training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.api import opened
from nas.asha import Job, train
from nas.content import sources_of, task_of
from nas.errors import UsageError
from nas.evaluation.trained import build
from nas.execution.ray_runner import Cluster
from nas.export.folder import check_alone, write_folder
from nas.files import check_folder, replace_folder
from nas.finalists import spread
from nas.request.recipe import Recipe
from nas.setup.plan import check_kernels, recipe_of
from nas.setup.preparation import OnStep, Step
from predictors.device import device_name, software
from searchspace.fold import fold
from searchspace.kernels import dispatch
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import SpaceSpec
from studies.pareto import front
from studies.records import Study, Trial


@dataclass(frozen=True)
class Final:
    """A trained trial: `losses` in nats by number of steps, incomplete if it was stopped; `reason` if it failed."""

    trial: Trial
    losses: dict[int, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def order(self) -> tuple[int, float]:
        """The sort key: networks that were trained longest come first, then by loss."""
        last = max(self.losses, default=0)
        return -last, self.losses.get(last, 0.0)


def train_front(
    study: str,
    *,
    db: str = "",
    networks: int = 8,
    steps: int | None = None,
    cluster: Cluster | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    kernels: str = "",
    on_step: OnStep = lambda step: None,
) -> list[Final]:
    """Train networks, evenly spread over the front, for `steps` (None: the recipe's); returns them best first.

    `kernels` are those of a CUDA device, "" for the study's. Asynchronous successive halving stops networks that fall
    behind. The best network is written to `out` as a folder that runs. Raises UsageError if the study has no front or
    no data to train on, if it has an imported model, and if no network could be trained.
    """
    with closing(opened(db)) as store:
        found = store.study(study)
        if found.quality == "user":
            raise UsageError(
                f"study {study!r} was judged by a function of yours, so there is no data to train on"
            )
        recipe = _recipe(found, steps)
        if recipe.model:
            right = f"use `nas extract {study} --knee --finetune STEPS` to train from those weights"
            if recipe.quality == "train":
                right = "to train its networks longer, search with more --recovery-steps"
            raise UsageError(
                f"study {study!r} has the weights of an imported model, but this training starts from random ones; "
                f"{right}"
            )
        members = spread(front(store.trials(found), found.objectives), networks)
        if not members:
            raise UsageError(f"study {study!r} has no complete trial to train")
        task_of(recipe, SpaceSpec.from_json(found.space))  # raises if the study's data has changed
        if out is not None:
            check_folder(out, overwrite, sources=sources_of(found), db=db)
        device = found.settings.device
        job = Job(found.space, recipe.to_json(), found.seed, device, kernels or found.settings.kernels)
        check_kernels(job.kernels, device)
        finals = _trained(job, members, cluster or Cluster(), on_step)
        with dispatch.use(job.kernels):
            store.add_measurements(_measurements(finals, found, recipe))
    if out is not None:
        with replace_folder(out, overwrite, sources=sources_of(found), db=db) as folder:
            _write(folder, found, job, finals[0])
    return finals


def _recipe(study: Study, steps: int | None) -> Recipe:
    recipe = recipe_of(study)
    if steps is None:
        return recipe
    warmup = min(recipe.alone.warmup_steps, steps)
    return recipe.changed(alone=replace(recipe.alone, steps=steps, warmup_steps=warmup))


def _trained(job: Job, members: Sequence[Trial], cluster: Cluster, on_step: OnStep) -> list[Final]:
    finals = {t.arch_id: Final(t) for t in members}
    ended: set[str] = set()

    def on_loss(arch_id: str, steps: int, loss: float) -> None:
        finals[arch_id].losses[steps] = loss
        on_step(Step("training", len(ended), len(finals), f"loss {loss:.3f} after {steps} steps"))

    def on_end(arch_id: str) -> None:
        ended.add(arch_id)
        on_step(Step("training", len(ended), len(finals), f"{len(ended)} done or stopped"))

    archs = [ArchSpec.from_json(t.arch) for t in members]
    failed = train(job, archs, cluster, on_loss, on_end)
    finals = {i: replace(f, reason=failed.get(i, "")) for i, f in finals.items()}
    if not any(f.losses for f in finals.values()):
        raise UsageError(f"no network could be trained: {next(iter(failed.values()), 'no reason given')}")
    return sorted(finals.values(), key=lambda f: f.order)


def _measurements(finals: Sequence[Final], study: Study, recipe: Recipe) -> list[Measurement]:
    return [
        Measurement(
            subject=f.trial.arch_id,
            quantity="loss after training",
            value=loss,
            unit="nats",
            workload=recipe.workload,
            device=device_name(study.settings.device),
            implementation="eager",
            method=f"trained alone for {steps} of {recipe.alone.steps} steps, ASHA",
            software=software(),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=study.seed,
        )
        for f in finals
        for steps, loss in f.losses.items()
    ]


def _write(out: Path, study: Study, job: Job, best: Final) -> None:
    judge = build(job.space, job.recipe, job.seed, job.device)  # its networks were already trained by workers
    steps, loss = max(best.losses.items())
    arch = ArchSpec.from_json(best.trial.arch)
    model = fold(judge.with_formats(judge.native(arch, steps), arch))
    about: dict[str, Any] = {
        "study": study.name,
        "trial": best.trial.number,
        "space": study.space["name"],
        "task": job.recipe["data"] or study.space["data"],
        "data": judge.task.provenance,
        "data_id": judge.task.content_id,
        "quality": f"trained by itself for {steps} of {judge.settings.steps} steps",
        "code": study.code_version,
    }
    write_folder(out, model, judge.validation, {"loss": loss}, about)
    check_alone(out, loss)
