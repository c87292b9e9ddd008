"""Prepares the supernet and the device profile of a study.

Both are made once, before trial 0, and found again by a content id of their inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from nas.content import task_of
from nas.errors import UsageError
from nas.home import home
from nas.machine import alone
from nas.measuring import OnProgress, measure
from nas.request.recipe import Recipe
from nas.setup.plan import checked, recipe_of
from nas.setup.runtime import why_not_all
from nas.setup.warm_start import check_earlier
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.patience import FULL_DISK
from studies.records import Artifact, Study
from studies.store import Store

if TYPE_CHECKING:
    from nas.tasks.base import Task

JUDGE = "nas.evaluation.judge:build"
PROFILE_SHARE = 1 / 8  # of the time limit for timing operators, and the same share for whole networks


@dataclass(frozen=True)
class Step:
    """Progress of one preparation: `done` of `total`, and a text to show beside the progress bar."""

    name: str
    done: float
    total: float
    text: str = ""


OnStep = Callable[[Step], None]


def prepare(store: Store, study: Study, space: SpaceSpec, device: str, on_step: OnStep) -> dict[str, Any]:
    """Make or find the artifacts that the study's objectives need; returns the settings of its judge.

    A resumed study names its supernet and profile, and exactly those are used: raises ArtifactError if they are not on
    this machine. Raises UsageError if its data or model have changed since it began, and if a study that was planned
    elsewhere can't run here.
    """
    study = _completed(store, study)
    recipe, sources = recipe_of(study), {o.source for o in study.objectives}
    task = task_of(recipe, space)
    settings = _settings(study, recipe)
    if sources - {"cost"}:
        _check_home()
    recovers = bool(recipe.model) and "trained" in sources
    if "inherited" in sources or "supernet" in recipe.ladder or recovers:
        settings["supernet"] = str(_supernet(store, study, space, recipe, task, device, on_step))
    if "predicted" in sources:
        settings["profile"] = str(_profile(store, study, space, recipe, device, on_step))
    return settings


def _check_home() -> None:
    """Raises UsageError if NAS_HOME can't be written. OSError of a full disk passes, so that the caller waits."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=home()):
            pass
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise UsageError(f"NAS_HOME {home()}: {error.strerror}; name a folder that can be written") from error


def _completed(store: Store, study: Study) -> Study:
    """Complete, with `checked`, a study that was planned without access to its data, as the service does.

    Only before its first trial: a study that an earlier version began without content ids continues unchanged.
    """
    if recipe_of(study).data_id or study.supernet or store.results(study):
        return study
    complete = checked(study)
    check_earlier(store, complete)
    return store.set_references(study, settings=complete.settings, objectives=complete.objectives)


def settings_of(store: Store, study: Study) -> dict[str, Any]:
    """The judge's settings of a prepared study. Raises ArtifactError if an artifact is not on this machine."""
    settings = _settings(study, recipe_of(study))
    if study.supernet:
        settings["supernet"] = str(artifact_folder(store, "supernet", study.supernet))
    if study.profile:
        settings["profile"] = str(artifact_folder(store, "profile", study.profile))
    return settings


def _settings(study: Study, recipe: Recipe) -> dict[str, Any]:
    return {
        "space": study.space,
        "recipe": recipe.to_json(),
        "objectives": [o.to_json() for o in study.objectives],
        "supernet": "",
        "profile": "",
        "device": study.settings.device,
        "kernels": study.settings.kernels,
    }


def _supernet(
    store: Store,
    study: Study,
    space: SpaceSpec,
    recipe: Recipe,
    task: Task,
    device: str,
    on_step: OnStep,
) -> Path:
    from nas.importing.load import imported
    from nas.setup.imported_supernet import make_store, store_key
    from nas.training.checkpoint import supernet_key
    from nas.training.placement import device_of
    from nas.training.supernet_trainer import Progress, train_supernet
    from searchspace.kernels import dispatch

    if study.supernet:
        return artifact_folder(store, "supernet", study.supernet)
    if recipe.model:
        model = imported(recipe.model)
        key = store_key(space, task, recipe.training, model, recipe.shared_steps)
    else:
        key = supernet_key(space, task, recipe.training)
    folder = home() / "supernets" / key

    def on_progress(progress: Progress) -> None:
        text = (
            f"loss {progress.loss:.3f} nats, {progress.phase}"
            if progress.loss is not None
            else progress.phase
        )
        on_step(Step("training the supernet", progress.step, progress.steps, text))

    def on_batch(done: int, total: int) -> None:
        on_step(Step("ordering channels, heads and units", done, total))

    waiting = Step("waiting for another study that trains the same supernet", 0, recipe.training.steps)
    with alone(f"supernet-{key}", lambda: on_step(waiting)), dispatch.use(study.settings.kernels):
        if recipe.model:
            settings, steps = recipe.training, recipe.shared_steps
            where = device_of(device)
            make_store(space, task, settings, model, steps, folder, on_progress, where, on_batch)
        else:
            train_supernet(space, task, recipe.training, folder, on_progress, device_of(device))
    record_artifact(store, "supernet", key, folder)
    store.set_references(study, supernet=key)
    return folder


def _profile(
    store: Store, study: Study, space: SpaceSpec, recipe: Recipe, device: str, on_step: OnStep
) -> Path:
    from predictors.profiling import is_complete, local_profile_folder
    from searchspace.kernels import dispatch

    if study.profile:
        return artifact_folder(store, "profile", study.profile)
    root, runtime = home() / "profiles", study.runtime
    with dispatch.use(study.settings.kernels):
        budget = _profile_budget(recipe)
        if not is_complete(space, recipe.workload, root, device, runtime=runtime, **budget):
            reason = why_not_all(study, space, recipe)
            if reason is not None:
                raise UsageError(f"--runtime {runtime}: {reason}")
            measure_profile(space, recipe.workload, device, on_step, runtime=runtime, **budget)
        folder = local_profile_folder(recipe.workload, root, device, runtime=runtime)
    record_artifact(store, "profile", folder.name, folder)
    store.set_references(study, profile=folder.name)
    return folder


def _profile_budget(recipe: Recipe) -> dict[str, Any]:
    """Time budgets in seconds for timing operators and whole networks: the defaults, or less under a time limit."""
    from predictors.profiling import NETWORK_SECONDS, OPERATOR_SECONDS

    if recipe.minutes is None:
        return {}
    share = recipe.minutes * 60 * PROFILE_SHARE
    return {"seconds_budget": min(OPERATOR_SECONDS, share), "network_seconds": min(NETWORK_SECONDS, share)}


def measure_profile(
    space: SpaceSpec, workload: Workload, device: str, on_step: OnStep, **settings: Any
) -> None:
    """Add the operators and networks of `space` to this device's profile; `settings` are those of `local_profile`."""

    def on_progress(done: int, total: int, text: str) -> None:
        what = "networks" if "networks" in text else "operators"
        on_step(Step(f"measuring {what}", done, total, text))

    root = home() / "profiles"
    measure(partial(_measure_profile, space, workload, root, device, settings), device, on_progress)


def _measure_profile(
    space: SpaceSpec,
    workload: Workload,
    root: Path,
    device: str,
    settings: dict[str, Any],
    on_progress: OnProgress,
) -> None:
    from predictors.profiling import local_profile

    local_profile(space, workload, root, device, on_progress=on_progress, **settings)


def artifact_folder(store: Store, kind: str, key: str) -> Path:
    """The folder of an artifact. Raises ArtifactError if it is not on this machine."""
    from nas.errors import ArtifactError

    artifact = store.artifact(kind, key)
    folders = [Path(artifact.path)] if artifact else []
    for folder in [*folders, home() / f"{kind}s" / key]:
        if folder.is_dir():
            return folder
    raise ArtifactError(
        f"the study's {kind} {key} is not on this machine: copy it to {home() / f'{kind}s' / key}"
    )


def record_artifact(store: Store, kind: str, key: str, folder: Path) -> None:
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    store.add_artifact(
        Artifact(kind, key, str(folder), size, datetime.now(UTC).isoformat(timespec="seconds"))
    )
