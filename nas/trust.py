"""Whether inherited losses mean something: against trivial baselines, and against networks trained alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nas.api import default_db, recipe_of
from nas.errors import UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.preparation import artifact_folder
from nas.recipe import Recipe
from nas.tasks.base import Task, loss
from nas.tasks.load import load_task
from nas.training.checkpoint import load_supernet
from nas.training.sandwich import Sandwich
from predictors.evaluate import kendall
from searchspace.cost import cost
from searchspace.model import Model
from searchspace.recalibration import needs_recalibration, recalibrate
from searchspace.sampling import sample
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.store import Store


@dataclass(frozen=True)
class Trained:
    """One network: what the supernet says of it, and what training it alone gives."""

    arch: ArchSpec
    parameters: int
    inherited: float
    alone: float


@dataclass(frozen=True)
class Report:
    """Losses in nats. `kendall_inherited` and `kendall_parameters` rank the networks trained alone."""

    largest: float
    largest_without_mixers: float
    baselines: dict[str, float]
    networks: list[Trained]
    steps: int

    @property
    def kendall_inherited(self) -> float:
        return kendall([n.inherited for n in self.networks], [n.alone for n in self.networks])

    @property
    def kendall_parameters(self) -> float:
        return kendall([-n.parameters for n in self.networks], [n.alone for n in self.networks])


def examine(
    study: str,
    *,
    db: str = "",
    networks: int = 12,
    steps: int = 300,
    on_network: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge the supernet of a study. Trains `networks` random architectures of its space alone, `steps` steps each."""
    store = Store(db or default_db())
    try:
        found = store.study(study)
        if not found.supernet:
            raise UsageError(
                f"study {study!r} has no supernet (its quality is {found.quality}): nothing to examine"
            )
        folder = artifact_folder(store, "supernet", found.supernet)
    finally:
        store.close()
    recipe, space = recipe_of(found), SpaceSpec.from_json(found.space)
    task = load_task(recipe.data or space.data, stem=space.stem, head=space.head)
    judged = InheritedQuality.of(load_supernet(folder), task, recipe.validation_examples, recipe.batch_size)
    encoding = Encoding(space)
    biggest = Sandwich(space, num_random=0, seed=0).largest
    bare = replace(biggest, blocks=tuple(replace(b, mixer=NONE) for b in biggest.blocks))
    trained = []
    for i, arch in enumerate(sample(encoding, networks, recipe.seed, recipe.workload)):
        model = train_alone(arch, task, recipe, steps, judged)
        alone = quality(model, judged.validation)["loss"]
        trained.append(Trained(arch, cost(arch, Workload()).parameters, judged(arch)["loss"], alone))
        if on_network is not None:
            on_network(i + 1, networks)
    return Report(judged(biggest)["loss"], judged(bare)["loss"], task.baseline_losses(), trained, steps)


def train_alone(arch: ArchSpec, task: Task, recipe: Recipe, steps: int, judged: InheritedQuality) -> Model:
    """A network of its own, from random weights, on the batches that the supernet saw."""
    from nas.training.supernet_trainer import learning_rate

    settings = replace(
        recipe.training, steps=steps, warmup_steps=min(recipe.training.warmup_steps, steps // 10)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Model(arch).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for step in range(steps):
        batch = task.batch(step, settings.batch_size, settings.seed)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        value = loss(model(batch.inputs)[0], batch.targets)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
    model.eval()
    if needs_recalibration(model):
        recalibrate(model, [b.inputs for b in judged.calibration])
    return model
