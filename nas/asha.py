"""Trains networks alone on Ray Tune, whose ASHA scheduler stops those that fall behind.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934. Which networks are stopped depends
on the order in which results arrive, so it is used for networks of a finished search and not inside a reproducible
one. Each training is kept in a file: if Tune or this process is killed, the next run reads the known losses from it and
continues the training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from nas.evaluation.trained import build
from nas.execution.ray_runner import Cluster, connect
from searchspace.spec.arch import ArchSpec

REDUCTION = 4  # the best quarter of the networks that reach a rung continues
NUM_RUNGS = 3

OnLoss = Callable[[str, int, float], None]
OnEnd = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """Settings of the trainings: `space` and `recipe` as JSON, seed, device and kernels."""

    space: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    device: str = "cpu"
    kernels: str = "torch"

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources of one training; Ray hides GPUs from work that requests none."""
        return {"cpu": 1.0} | ({"gpu": 1.0} if self.device == "cuda" else {})


def rungs(steps: int) -> list[int]:
    """The numbers of steps after which losses are compared; the last is `steps`."""
    return sorted({max(1, steps // REDUCTION**i) for i in range(NUM_RUNGS)})


def train(
    job: Job, archs: Sequence[ArchSpec], cluster: Cluster, on_loss: OnLoss, on_end: OnEnd
) -> dict[str, str]:
    """Train each network until it is done or stopped; returns the reasons of failures by the architecture's id.

    `on_loss(id, steps, loss in nats)` is called for every loss, `on_end(id)` when a training has ended. Raises
    UsageError if the cluster can't be used.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # its boxes would mix with the output of --json
    is_ours = not ray.is_initialized()
    if is_ours:
        connect(cluster, "nas.asha")
    trainable = tune.with_resources(tune.with_parameters(_train, job=job), job.resources)
    steps: int = job.recipe["alone"]["steps"]
    scheduler = AsyncHyperBandScheduler(
        time_attr="steps", max_t=steps, grace_period=rungs(steps)[0], reduction_factor=REDUCTION
    )
    try:
        with TemporaryDirectory() as kept:
            tuner = tune.Tuner(
                trainable,
                param_space={"arch": tune.grid_search([json.dumps(a.to_json()) for a in archs])},
                tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler),
                run_config=tune.RunConfig(
                    name="train",
                    storage_path=kept,
                    verbose=0,
                    callbacks=[_Listener(on_loss, on_end)],
                    failure_config=tune.FailureConfig(max_failures=1),
                ),
            )
            found = tuner.fit()
        ended = [found[i] for i in range(len(found))]
        return {_id(r.config): _reason(r.error) for r in ended if r.error is not None}
    finally:
        if is_ours:
            ray.shutdown()


class _Listener(tune.Callback):
    def __init__(self, on_loss: OnLoss, on_end: OnEnd) -> None:
        self._on_loss, self._on_end = on_loss, on_end

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; the display can't be pickled and is not needed in the copy

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        self._on_loss(_id(trial.config), int(result["steps"]), float(result["loss"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._on_end(_id(trial.config))


def _train(config: Mapping[str, str], job: Job) -> None:
    judge = build(job.space, job.recipe, job.seed, job.device, job.kernels)
    arch = ArchSpec.from_json(json.loads(config["arch"]))
    for steps in rungs(judge.settings.steps):
        tune.report({"loss": judge.after(arch, steps)["loss"], "steps": steps})


def _id(config: Mapping[str, str] | None) -> str:
    assert config is not None
    return ArchSpec.from_json(json.loads(config["arch"])).id


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
