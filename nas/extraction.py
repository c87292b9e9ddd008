"""Extraction of a network of a study to a folder: selects a trial, extracts it, verifies it, times it, writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

from nas.api import opened, read
from nas.content import sources_of, supernet_of, task_of
from nas.distillation import distill, finetune_settings
from nas.errors import ArtifactError, UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.evaluation.trained import TrainedQuality, recovery_of
from nas.export.folder import (
    Extraction,
    as_stored,
    check_alone,
    largest_difference,
    state_exports,
    write_folder,
)
from nas.export.formats import SECONDS, check_formats, write_exports
from nas.export.graph import TOLERANCE
from nas.files import check_folder, replace_folder
from nas.finalists import measure
from nas.importing.load import copy_tokenizer
from nas.machine import measuring
from nas.request.functions import python_function
from nas.request.recipe import Recipe
from nas.request.schema import ExtractRequest
from nas.selection import Selection as Selection
from nas.setup.plan import recipe_of, with_kernels
from nas.setup.preparation import OnStep, artifact_folder
from nas.training.placement import CPU, device_here
from nas.training.sandwich import Sandwich
from predictors.network_bench import measure_networks
from predictors.runtimes import ONNXRUNTIME
from searchspace.cost import cost
from searchspace.fold import fold, fold_affine
from searchspace.kernels import dispatch
from searchspace.model import Model
from searchspace.spec.arch import ONNX_INT8, ArchSpec
from searchspace.spec.measurement import Measurement
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.supernet import Supernet
from studies.records import Study
from studies.store import Store

FOLD_TOLERANCE = 1e-9


def extracted(request: ExtractRequest) -> Extraction:
    """Write a network of a study as a folder. Errors name options like the command line. Raises like `extract`."""
    result, out = read(request.study, db=request.db), Path(request.out)
    check_folder(out, request.overwrite, sources=sources_of(result.study), db=request.db)
    trial = (request.select or Selection()).of(result)
    studied = with_kernels(result.study, request.kernels)
    with closing(opened(request.db)) as store:
        return Parent.of(store, studied).write(
            ArchSpec.from_json(trial.arch),
            out,
            {"trial": trial.number},
            predicted=trial.values,
            overwrite=request.overwrite,
            formats=request.formats,
            finetune=request.finetune,
            on_step=request.on_step or (lambda step: None),
        )


@python_function(ExtractRequest)
def extract(request: ExtractRequest) -> Extraction:
    """Write a network of a study as a folder that runs without this project.

    Its weights are those that it was evaluated with: its own if it was trained alone, else the supernet's. The folder's
    `run.py` is run once as a check. Raises UsageError for an invalid selection, format or folder, and ArtifactError if
    the extracted network differs from the supernet, or if the folder or an exported format differs from the network.
    """
    return extracted(request)


@dataclass(frozen=True)
class Parent:
    """The source of weights for the networks of a study, and their evaluation."""

    store: Store
    study: Study
    recipe: Recipe
    judge: InheritedQuality | TrainedQuality

    @classmethod
    def of(cls, store: Store, study: Study) -> Parent:
        """The parent of a study's networks. Raises UsageError if it has neither trained networks nor a supernet."""
        recipe, space = recipe_of(study), SpaceSpec.from_json(study.space)
        is_trained = any(o.source == "trained" for o in study.objectives)
        if not is_trained and not study.supernet:
            raise UsageError(
                f"study {study.name!r} has no weights to extract (its quality is {study.quality})"
            )
        task = task_of(recipe, space)
        if is_trained:
            device, recovery = device_here(study.settings.device), None
            if recipe.model:
                folder = artifact_folder(store, "supernet", study.supernet)
                recovery = recovery_of(recipe, space, task, folder, device)
            judge_ = TrainedQuality.of(task, recipe, recipe.alone.seed, device=device, recovery=recovery)
            return cls(store, study, recipe, judge_)
        supernet = supernet_of(artifact_folder(store, "supernet", study.supernet), space, task)
        judge = InheritedQuality.of(supernet, task, recipe.validation_examples, recipe.batch_size)
        return cls(store, study, recipe, judge)

    @property
    def judged(self) -> InheritedQuality:
        """The evaluation with inherited weights. Raises UsageError if the study has no supernet."""
        if isinstance(self.judge, InheritedQuality):
            return self.judge
        raise UsageError(
            f"study {self.study.name!r} trained each network alone, but this needs shared weights; "
            f"search with --quality supernet"
        )

    def write(
        self,
        arch: ArchSpec,
        out: Path,
        origin: Mapping[str, Any],
        *,
        predicted: Mapping[str, float],
        overwrite: bool = False,
        formats: Sequence[str] = (),
        finetune: int = 0,
        on_step: OnStep = lambda step: None,
    ) -> Extraction:
        """Write `arch` as a folder: extracted, verified, finetuned, timed and exported.

        `origin` describes its origin, and `predicted` are the search's values by quantity. Raises UsageError for an
        invalid format or folder, and ArtifactError if a check fails.
        """
        timed_file = "onnx-int8" if arch.formats == (ONNX_INT8,) else "onnx"
        if self.study.runtime == ONNXRUNTIME and timed_file not in formats:
            formats = (*formats, timed_file)  # the file that its latency refers to
        check_formats(formats, arch)
        sources, db = sources_of(self.study), str(self.store.engine.url)
        check_folder(out, overwrite, sources=sources, db=db)
        if finetune:
            self.judged  # noqa: B018 - raises if there is no supernet to be the teacher
        model, validation = self._cut_out(arch), self.judge.validation
        if ONNX_INT8 in arch.formats:  # padding affects its rounding
            validation = as_stored(validation)
        numbers = {}
        if finetune:
            numbers["inherited_loss"] = quality(model, validation)["loss"]
            self._finetune(model, finetune, on_step)
        unfolded = self.judge.with_formats(model, arch)
        model = fold_affine(fold(unfolded), validation[0].inputs)
        numbers |= self._folded(unfolded, model)
        measurements = self._timed(arch)
        numbers |= quality(model, validation) | _costs(arch, self.recipe)
        if "latency" in predicted:
            numbers["predicted_latency"] = predicted["latency"]
        numbers |= {f"measured_{m.quantity}": m.value for m in measurements}
        on_cpu = [m.reference for m in measurements if self.study.settings.device == "cpu"]
        nominal_ms = on_cpu[0] if on_cpu else None
        workload = self.recipe.workload
        with replace_folder(out, overwrite, sources=sources, db=db) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            exports = write_exports(folder, model, formats, validation, workload, nominal_ms)
            from_file = [e.latency for e in exports if e.format == timed_file and e.latency is not None]
            if self.study.runtime == ONNXRUNTIME and measurements and from_file:
                numbers["measured_latency"] = from_file[0].value  # that of the written file
            write_folder(folder, model, validation, numbers, self._about(origin, finetune), measurements)
            if self.recipe.model:
                copy_tokenizer(Path(self.recipe.model), folder)
            if self.recipe.model and "transformers" in formats:
                copy_tokenizer(Path(self.recipe.model), folder / "transformers")
            state_exports(folder, model, exports)
            check_alone(folder, numbers["loss"])
        return Extraction(out, origin, numbers, exports)

    def _cut_out(self, arch: ArchSpec) -> Model:
        if isinstance(self.judge, TrainedQuality):
            with dispatch.use("torch" if self.judge.device == CPU else self.study.settings.kernels):
                return self.judge.native(arch)
        model = self.judge.native(arch, copy=True)
        compare(self.judge.supernet, model, self.judge.validation[0].inputs)
        return model

    def _finetune(self, model: Model, steps: int, on_step: OnStep) -> None:
        training, device = self.recipe.training, device_here(self.study.settings.device)
        largest = Sandwich(self.judged.supernet.space, 0, 0).largest
        teacher = self.judged.network(largest).to(device)
        model.to(device)
        with dispatch.use("torch" if device == CPU else self.study.settings.kernels):
            distill(
                model,
                list(model.parameters()),
                lambda inputs, tokens: teacher(inputs, tokens)[0],
                self.judged.task,
                finetune_settings(training, steps),
                on_step,
            )
        model.cpu()

    def _folded(self, before: Model, after: Model) -> dict[str, float]:
        """If folding changed the network: the largest difference of outputs, and latencies of both on one thread in ms.

        Raises ArtifactError if the difference exceeds rounding errors.
        """
        if before is after:
            return {}
        inputs = self.judge.validation[0].inputs[:4]
        with torch.inference_mode():
            reference = before(inputs)[0]
        difference = largest_difference(after, reference, inputs)
        if not difference <= TOLERANCE * max(1.0, float(reference.abs().max())):
            raise ArtifactError(
                f"architecture {before.arch.id}: folding its norms changes its outputs by {difference:g}"
            )
        found = {"fold_difference": difference}
        workload = self.recipe.workload
        if workload.phase == "forward" and workload.dtype == "float32":
            with measuring("cpu"):
                models = {"latency_unfolded": before, "latency_folded": after}
                timed, _ = measure_networks(models, workload, seconds=SECONDS)
            found |= {m.subject: m.value for m in timed}
        return found

    def _timed(self, arch: ArchSpec) -> list[Measurement]:
        """The network's latency, measured now; empty for a study without a profile of this device."""
        if not self.study.profile or self.study.settings.target:  # searched for another device
            return []
        profile = artifact_folder(self.store, "profile", self.study.profile)
        return measure(self.store, self.study, self.recipe, profile, [arch], lambda done, total: None)

    def _about(self, origin: Mapping[str, Any], finetuned: int) -> dict[str, Any]:
        how = "weights inherited from the supernet, "
        if isinstance(self.judge, TrainedQuality):
            how = f"trained by itself for all {self.judge.settings.steps} steps of the recipe"
            if self.judge.recovery is not None:
                how = f"recovered from the weights of the model for {self.judge.settings.steps} steps, as judged"
        elif finetuned:
            how += f"then finetuned for {finetuned} steps with the supernet's largest network as teacher"
        else:
            how += "not trained further"
        return {
            "study": self.study.name,
            **origin,
            "space": self.study.space["name"],
            "supernet": self.study.supernet,
            "task": self.recipe.data or self.study.space["data"],
            "model": self.recipe.model,
            "data": self.judge.task.provenance,
            "data_id": self.judge.task.content_id,
            "quality": how,
            "runtime": self.study.runtime,
            "code": self.study.code_version,
            "sources": SOURCES,
        }


def compare(supernet: Supernet, model: Model, inputs: torch.Tensor) -> None:
    """Raises ArtifactError if an extracted network and the supernet's slices differ in any bit on `inputs`, in float64.

    inputs: [B, T] or [B, C, H, W]. The supernet's slices run with the statistics of the extracted network. The folded
    network is another formula for the same function and may differ by rounding.
    """
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    weights, own = supernet.weights(model.arch) | dict(model.named_buffers()), model.state_dict()
    if fold(model) is model and all(torch.equal(t, own[name]) for name, t in weights.items()):
        return  # equal tensors in equal modules, and nothing to fold
    weights = {name: tensor.detach().double() for name, tensor in weights.items()}
    alone = Model.from_weights(model.arch, {n: t.double() for n, t in model.state_dict().items()}).eval()
    with torch.device("meta"):
        skeleton = Model(model.arch).eval()
    simpler, difference, folded, largest = fold(alone), 0.0, 0.0, 1.0
    with torch.inference_mode():
        for row in range(len(inputs)):  # row by row, to save memory with a large vocabulary
            some = inputs[row : row + 1]
            reference = functional_call(skeleton, weights, (some,))[0]
            largest = max(largest, float(reference.abs().max()))
            difference = max(difference, largest_difference(alone, reference, some))
            folded = max(folded, largest_difference(simpler, reference, some))
    if difference != 0:
        raise ArtifactError(
            f"architecture {model.arch.id}: logits differ from the supernet's by {difference:g}"
        )
    if not folded <= FOLD_TOLERANCE * largest:
        raise ArtifactError(f"architecture {model.arch.id}: folding changes its logits by {folded:g}")


def _costs(arch: ArchSpec, recipe: Recipe) -> dict[str, float]:
    costs = cost(arch, recipe.workload)
    names = ("parameters", "active_parameters", "flops", "weight_bytes", "state_bytes")
    return {name: float(getattr(costs, name)) for name in names}


SOURCES = {
    "loss": "held-out examples in validation.safetensors",
    "inherited_loss": "the same examples, before finetuning",
    "accuracy": "the same examples",
    "parameters": "counted",
    "active_parameters": "counted, those that one token uses",
    "flops": "counted, a multiply-add as 2, one call of the workload",
    "weight_bytes": "counted, at the workload's dtype, quantized weights as they are stored",
    "state_bytes": "counted, decoding state at the end of the workload, without preallocated rows",
    "predicted_latency": "ms, from operators measured on the device, as used in the search",
    "fold_difference": "the largest difference of outputs from folding norms into linear maps",
    "latency_unfolded": "ms on one CPU thread, before norms were folded, timed in alternation with latency_folded",
    "latency_folded": "ms on one CPU thread, of the network as it is in this folder",
    "measured_latency": "ms, this network, see Measured",
}
