"""From a finished study to a folder that runs: choose a trial, cut it out, prove it equal, time it, write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

from nas.api import Result, default_db, read, recipe_of
from nas.errors import ArtifactError, UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.export.folder import Extraction, largest_difference, run_alone, write_folder
from nas.finalists import measure
from nas.preparation import artifact_folder
from nas.recipe import Recipe
from nas.tasks.load import load_task
from nas.training.checkpoint import load_supernet
from searchspace.cost import cost
from searchspace.fold import fold
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.supernet import Supernet
from studies.pareto import knee, losses
from studies.records import Study, Trial
from studies.store import Store

TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Selection:
    """Which trial: one by its number, the knee of the front, or the best first objective within a latency."""

    trial: int | None = None
    knee: bool = False
    max_latency: float | None = None

    def of(self, result: Result) -> Trial:
        """Raises UsageError where nothing fits, saying what would."""
        if self.trial is not None:
            return self._numbered(result)
        if not result.front:
            raise UsageError(f"study {result.study.name!r} has no complete trial to choose from")
        if self.max_latency is None:
            return result.front[knee(losses(result.front, result.study.objectives))]
        if not any(o.name == "latency" for o in result.study.objectives):
            raise UsageError(
                f"--max-latency: study {result.study.name!r} has no objective latency; use --trial or --knee"
            )
        fitting = [t for t in result.front if t.values["latency"] <= self.max_latency]
        if not fitting:
            fastest = min(t.values["latency"] for t in result.front)
            raise UsageError(
                f"--max-latency {self.max_latency:g}: the fastest of the front takes {fastest:.4g} ms"
            )
        return fitting[int(losses(fitting, result.study.objectives)[:, 0].argmin())]

    def _numbered(self, result: Result) -> Trial:
        found = [t for t in result.trials if t.number == self.trial]
        if not found:
            raise UsageError(
                f"--trial {self.trial}: study {result.study.name!r} has trials 0 to {len(result.trials) - 1}"
            )
        if found[0].state not in ("complete", "infeasible"):
            raise UsageError(
                f"--trial {self.trial} is {found[0].state}: {found[0].error or 'it has no values yet'}"
            )
        return found[0]


def extract(
    study: str, out: str | Path, *, db: str = "", select: Selection | None = None, overwrite: bool = False
) -> Extraction:
    """Cut the selected network (by default the knee) out of the study's supernet and write it to the folder `out`.

    The folder's `run.py` is run once before this returns. Raises ArtifactError where the extracted network does not
    compute what the supernet computes, or where its folder does not give the stated loss.
    """
    result = read(study, db=db)
    trial = (select or Selection(knee=True)).of(result)
    recipe, space = recipe_of(result.study), SpaceSpec.from_json(result.study.space)
    if not result.study.supernet:
        raise UsageError(
            f"study {study!r} has no supernet (its quality is {result.study.quality}): nothing to cut out"
        )
    store = Store(db or default_db())
    try:
        supernet = load_supernet(artifact_folder(store, "supernet", result.study.supernet))
        judged = _judge(supernet, space, recipe)
        arch = ArchSpec.from_json(trial.arch)
        model = judged.network(arch, copy=True)
        difference = compare(supernet, model, judged.validation[0].inputs)
        if not difference <= TOLERANCE:
            raise ArtifactError(f"trial {trial.number}: logits differ from the supernet's by {difference:g}")
        measurements = _timed(store, result.study, recipe, trial)
    finally:
        store.close()
    found = quality(fold(model), judged.validation)
    numbers = _numbers(trial, found, arch, recipe)
    numbers |= {f"measured_{m.quantity}": m.value for m in measurements}
    folder = write_folder(
        Path(out),
        model,
        judged.validation,
        numbers,
        _about(result.study, trial, judged),
        measurements,
        overwrite,
    )
    given = run_alone(folder)
    if abs(given["loss"] - numbers["loss"]) > LOSS_TOLERANCE:
        raise ArtifactError(
            f"{folder}: run.py gives loss {given['loss']:.6f}, stated is {numbers['loss']:.6f}"
        )
    return Extraction(folder, trial.number, difference, TOLERANCE, numbers)


def compare(supernet: Supernet, model: Model, inputs: torch.Tensor) -> float:
    """Largest absolute difference between the folded extracted network and the slices of the supernet.

    Statistics belong to the extracted network, so the supernet's slices run with those.
    """
    with torch.inference_mode():
        weights = supernet.weights(model.arch) | dict(model.named_buffers())
        with torch.device("meta"):
            skeleton = Model(model.arch).eval()
        reference = functional_call(skeleton, weights, (inputs,))[0]
    return largest_difference(fold(model), reference, inputs)


def _timed(store: Store, study: Study, recipe: Recipe, trial: Trial) -> list[Measurement]:
    """The network's latency, measured now; nothing for a study that has no profile to state it at."""
    if not study.profile:
        return []
    profile = artifact_folder(store, "profile", study.profile)
    return measure(store, study, recipe, profile, [trial], lambda done, total: None)


def _judge(supernet: Supernet, space: SpaceSpec, recipe: Recipe) -> InheritedQuality:
    task = load_task(recipe.data or space.data, stem=space.stem, head=space.head)
    return InheritedQuality.of(supernet, task, recipe.validation_examples, recipe.batch_size)


def _numbers(trial: Trial, found: dict[str, float], arch: ArchSpec, recipe: Recipe) -> dict[str, float]:
    """What is stated of the network: its own loss and costs, and the latency that the search believed."""
    costs = cost(arch, recipe.workload)
    numbers = {**found, "parameters": float(costs.parameters), "flops": float(costs.flops)}
    numbers["weight_bytes"], numbers["state_bytes"] = float(costs.weight_bytes), float(costs.state_bytes)
    if "latency" in trial.values:
        numbers["predicted_latency"] = trial.values["latency"]
    return numbers


def _about(study: Study, trial: Trial, judged: InheritedQuality) -> dict[str, Any]:
    return {
        "study": study.name,
        "trial": trial.number,
        "space": study.space["name"],
        "supernet": study.supernet,
        "data": judged.task.provenance,
        "quality": "weights inherited from the supernet, not trained further",
        "code": study.code_version,
        "sources": {
            "loss": "held-out examples in validation.safetensors",
            "accuracy": "the same examples",
            "parameters": "counted",
            "flops": "counted, a multiply-add as 2, one call of the workload",
            "weight_bytes": "counted, at the workload's dtype",
            "state_bytes": "counted, what decoding keeps at the end of the workload",
            "predicted_latency": "ms, from operators measured on the device, as used in the search",
            "measured_latency": "ms, this network, see Measured",
        },
    }
