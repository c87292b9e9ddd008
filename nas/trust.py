"""Whether inherited losses mean something: against trivial baselines, and against networks trained alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nas.api import default_db, recipe_of
from nas.errors import UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.preparation import artifact_folder
from nas.tasks.load import load_task
from nas.training.alone import train_alone
from nas.training.checkpoint import load_supernet
from nas.training.sandwich import Sandwich
from predictors.agreement import kendall
from searchspace.cost import cost
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
    settings = replace(recipe.alone, steps=steps, warmup_steps=min(recipe.alone.warmup_steps, steps // 10))
    trained = []
    for i, arch in enumerate(sample(encoding, networks, recipe.seed, recipe.workload)):
        alone = quality(train_alone(arch, task, settings).model, judged.validation)["loss"]
        trained.append(Trained(arch, cost(arch, Workload()).parameters, judged(arch)["loss"], alone))
        if on_network is not None:
            on_network(i + 1, networks)
    return Report(judged(biggest)["loss"], judged(bare)["loss"], task.baseline_losses(), trained, steps)
