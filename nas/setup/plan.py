"""From what was asked for to a Study: its space, objectives and budget, each refused here where it can't be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from nas.errors import UsageError
from nas.evaluation import stated
from nas.evaluation.quantities import default_objectives, parse_constraints, parse_objectives
from nas.searchers.base import Problem
from nas.searchers.registry import make_searcher
from nas.setup.content import identified, located, task_of
from nas.setup.recipe import Recipe
from nas.truth.gate import may_gate
from searchspace.spec.genome import Encoding, quant_policy
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.fidelity import PROXY
from studies.records import Objective, Study


def named_space(source: str) -> SpaceSpec:
    """A built-in space or a TOML file. Raises UsageError naming --space and what is wrong."""
    from searchspace.load import load_space

    if not source:
        raise UsageError("--space is missing: name a space (`nas spaces` lists them) or a TOML file")
    try:
        return load_space(source)
    except ValueError as error:
        raise UsageError(f"--space {source}: {error}") from error


def plan(
    space: SpaceSpec,
    recipe: Recipe,
    objectives: Sequence[str | Objective] | None = None,
    *,
    name: str = "",
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    device: str = "cpu",
    has_judge: bool = False,
) -> Study:
    """The study that a search begins with, neither stored nor run; loads no torch.

    Raises UsageError for an unknown searcher, and for one that does not suit the space or the objectives.
    """
    name = name or space.name
    if "/" in name:
        raise UsageError(f"--study {name}: names become files and addresses, so they are without a slash")
    recipe = located(recipe.changed(bounds={**recipe.bounds, **bounds} if bounds else None), space)
    objectives = objectives or default_objectives(recipe)
    if not has_judge:
        names = [o if isinstance(o, str) else o.name for o in objectives]
        objectives, recipe, device = stated.read(names, recipe, device)
    names = [o if isinstance(o, str) else o.name for o in objectives]
    recipe = recipe.changed(objectives=tuple(names))
    make_searcher(recipe.searcher, Problem(Encoding(space), len(names), recipe.seed, lambda arch: None))
    if has_judge:
        goals = tuple(_user_objective(o, recipe) for o in objectives)
    else:
        goals = parse_objectives(names, recipe, device)
        if space.task == "embedding":
            goals = _of_embeddings(goals)
        more = parse_constraints(recipe.bounds, names)
        space = replace(space, constraints=space.constraints + more)
    return Study(
        name=name,
        space=space.to_json(),
        objectives=goals,
        searcher=recipe.searcher,
        seed=recipe.seed,
        lag=recipe.lag,
        max_trials=recipe.trials,
        max_seconds=recipe.minutes * 60 if recipe.minutes is not None else None,
        quality="user" if has_judge else recipe.quality,
        settings={"recipe": recipe.to_json(), "device": device},
        code_version=code_version(),
    )


def recipe_of(study: Study) -> Recipe:
    return Recipe.from_json(study.settings["recipe"])


def code_version() -> str:
    try:
        return version("efficient-transformer-nas")
    except PackageNotFoundError:
        return "source"


def _user_objective(objective: str | Objective, recipe: Recipe) -> Objective:
    if isinstance(objective, Objective):
        return objective
    lower, upper = recipe.bounds.get(objective, (None, None))
    return Objective(objective, source="user", lower=lower, upper=upper)


def _of_embeddings(goals: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """Their loss is no cross entropy. Raises UsageError for a proxy, which needs one."""
    for goal in goals:
        if goal.source == "proxy":
            raise UsageError(f"--objectives {goal.name}: a proxy needs classes to predict, this model embeds")
    return tuple(replace(g, unit="1 - cosine") if g.unit == "nats" else g for g in goals)


def checked(study: Study, space: SpaceSpec) -> Study:
    """The study to be, judged by this project, with the content ids of what it reads.

    Raises UsageError where it could not run here, which includes data that can't be read: before the database knows it.
    """
    recipe, device = recipe_of(study), study.settings["device"]
    _check_device(device)
    _check_gate(recipe, space)
    _check_formats(space, study.objectives, recipe.workload, device)
    recipe = identified(recipe, task_of(recipe, space))
    return replace(study, settings={**study.settings, "recipe": recipe.to_json()})


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: unknown; known: cpu, cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device here; use cpu")


def _check_gate(recipe: Recipe, space: SpaceSpec) -> None:
    """A proxy that does worse than counting parameters would only throw good networks away."""
    if "proxy" not in recipe.ladder or recipe.gate_anyway:
        return
    reason = may_gate(space.name, PROXY)
    if reason is not None:
        raise UsageError(f"--ladder proxy: {reason}; --gate-anyway lets it decide all the same")


def _check_formats(
    space: SpaceSpec, objectives: Sequence[Objective], workload: Workload, device: str
) -> None:
    """Raises UsageError for a number format whose latency would be simulated, where latency is an objective."""
    decisions = {(n, d) for stage in space.stages for block in stage.blocks for n, d in block.quant}
    if all(o.source != "predicted" for o in objectives) or not decisions:
        return
    from predictors.operator_grid import why_not_timed

    for name, decision in sorted(decisions, key=lambda found: found[0]):
        for value in decision.formats.values:
            reason = why_not_timed(quant_policy([(decision, str(value))]), workload, device)
            if reason is not None:
                raise UsageError(
                    f"--objectives latency: space {space.name} offers {name} = {value}: {reason}"
                )
