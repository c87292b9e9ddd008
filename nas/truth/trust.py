"""Compares inherited losses with trivial baselines, and with the losses of networks trained alone.

These networks are trained here, or read from a table of `nas truth build`, which can be reused for every supernet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from nas.api import opened
from nas.content import supernet_of, task_of
from nas.errors import UsageError
from nas.evaluation.inherited import InheritedQuality, quality
from nas.request.recipe import Recipe
from nas.setup.plan import recipe_of
from nas.setup.preparation import artifact_folder
from nas.tasks.base import Task
from nas.training.alone import train_alone
from nas.training.sandwich import Sandwich
from nas.truth.readers import TRUTH, read
from searchspace.cost import cost
from searchspace.kernels import dispatch
from searchspace.sampling import sample
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.agreement import MIN_STRATUM, Estimate, agreement
from studies.records import Study
from studies.rungs import RungAgreement, rung_agreements


@dataclass(frozen=True)
class Trained:
    """A network with its loss inherited from the supernet, and its loss after training alone, in nats."""

    arch: ArchSpec
    parameters: int
    inherited: float
    alone: float


@dataclass(frozen=True)
class Report:
    """Losses in nats; `alone` describes how the networks were trained alone."""

    largest: float
    largest_without_mixers: float
    baselines: dict[str, float]
    networks: list[Trained]
    alone: str

    @property
    def kendall_inherited(self) -> Estimate:
        """Kendall's tau of inherited losses with losses after training alone, with its 95 % interval."""
        return self._kendall([-n.inherited for n in self.networks])

    @property
    def kendall_parameters(self) -> Estimate:
        return self._kendall([n.parameters for n in self.networks])

    def _kendall(self, judgement: Sequence[float]) -> Estimate:
        truth = [-n.alone for n in self.networks]
        return agreement(judgement, truth, [""] * len(truth)).overall["kendall"]


@dataclass(frozen=True)
class Climbed:
    """For a study that trained its networks: how each rung, and size, ranked those that were trained to the end."""

    rungs: list[RungAgreement]
    parameters: Estimate
    count: int


def examine_rungs(study: str, *, db: str = "") -> Climbed | None:
    """The ranking quality of the study's rungs; None for a study with a supernet.

    Raises UsageError if too few networks were trained to the end.
    """
    with closing(opened(db)) as store:
        found = store.study(study)
        quality_ = next((o for o in found.objectives if o.source == "trained"), None)
        if quality_ is None:
            return None
        trials = store.trials(found)
    whole = [t for t in trials if t.fidelity == "" and quality_.name in t.values]
    if len(whole) < MIN_STRATUM:
        raise UsageError(
            f"study {study!r} trained {len(whole)} networks to the end; {MIN_STRATUM} are needed to compare rankings"
        )
    sizes = [cost(ArchSpec.from_json(t.arch), Workload()).parameters for t in whole]
    truth = [-quality_.loss(t.values[quality_.name]) for t in whole]
    by_size = agreement(sizes, truth, [""] * len(whole)).overall["kendall"]
    return Climbed(rung_agreements(trials, quality_), by_size, len(whole))


def examine(
    study: str,
    *,
    db: str = "",
    networks: int = 12,
    steps: int = 300,
    table: str = "",
    on_network: Callable[[int, int], None] | None = None,
) -> Report:
    """Evaluate the supernet of a study on the networks of `table`, or on random ones that are trained alone.

    Without a table, `networks` are trained for `steps` steps each. Raises UsageError for a study without a supernet,
    and for a table that is not one of `nas truth build`.
    """
    found, judged = judge_of(study, db)
    recipe, space, task = recipe_of(found), judged.supernet.space, judged.task
    biggest = Sandwich(space, num_random=0, seed=0).largest
    bare = replace(biggest, blocks=tuple(replace(b, mixer=NONE) for b in biggest.blocks))
    if table:
        known = _of_table(table)
        truth, networks, alone = iter(known), len(known), f"those of {table}"
    else:
        truth, alone = _trained(space, recipe, task, judged, networks, steps), f"{steps} steps each"
    trained = []
    with dispatch.use(found.settings.kernels):
        for arch, loss in truth:
            trained.append(Trained(arch, cost(arch, Workload()).parameters, judged(arch)["loss"], loss))
            if on_network is not None:
                on_network(len(trained), networks)
        ends = judged(biggest)["loss"], judged(bare)["loss"]
    return Report(*ends, task.baseline_losses(), trained, alone)


def judge_of(study: str, db: str) -> tuple[Study, InheritedQuality]:
    """A study and the evaluation by its supernet. Raises UsageError if it has none."""
    with closing(opened(db)) as store:
        found = store.study(study)
        if not found.supernet:
            raise UsageError(
                f"study {study!r} has no supernet (its quality is {found.quality}), so it has no inherited losses"
            )
        folder = artifact_folder(store, "supernet", found.supernet)
    recipe, space = recipe_of(found), SpaceSpec.from_json(found.space)
    task = task_of(recipe, space)
    supernet = supernet_of(folder, space, task, found.settings.device)
    return found, InheritedQuality.of(supernet, task, recipe.validation_examples, recipe.batch_size)


def _of_table(table: str) -> list[tuple[ArchSpec, float]]:
    found = read(Path(table))
    if found.form != TRUTH:
        raise UsageError(f"--table {table}: it is a {found.form} table; name a folder of `nas truth build`")
    return [(arch, -float(q)) for arch, q in zip(found.archs, found.quality, strict=True)]


def _trained(
    space: SpaceSpec, recipe: Recipe, task: Task, judged: InheritedQuality, networks: int, steps: int
) -> Iterator[tuple[ArchSpec, float]]:
    settings = replace(recipe.alone, steps=steps, warmup_steps=min(recipe.alone.warmup_steps, steps // 10))
    for arch in sample(Encoding(space), networks, recipe.seed, recipe.workload):
        model = train_alone(arch, task, settings, device=judged.device).model
        yield arch, quality(model, judged.validation)["loss"]
