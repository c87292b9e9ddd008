"""Plans a Study from a request: validates and combines its space, objectives and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from nas.content import identified, located, task_of
from nas.errors import UsageError
from nas.evaluation import objective_syntax
from nas.evaluation.quantities import (
    check_distinct,
    default_objectives,
    metric_names,
    parse_constraints,
    parse_objectives,
)
from nas.request.recipe import Recipe, load_recipe
from nas.request.schema import DEVICES, SearchOptions, SearchRequest
from nas.searchers.base import Problem
from nas.searchers.registry import make_searcher
from nas.setup.fitting import fitted
from nas.setup.gate import may_gate
from nas.setup.narrowing import narrowed
from nas.setup.runtime import with_int8, with_runtime
from nas.tasks.metric_names import is_own
from predictors.runtimes import ONNXRUNTIME
from searchspace.spec.arch import NONE
from searchspace.spec.genome import Encoding, quant_policy
from searchspace.spec.reading import shown, unknown
from searchspace.spec.servable import servable
from searchspace.spec.space import Choice, SpaceSpec
from searchspace.spec.workload import Workload
from studies.editing import MAX_NAME
from studies.fidelity import PROXY
from studies.records import Objective, Study
from studies.settings import Baseline, Settings

if TYPE_CHECKING:
    from nas.tasks.base import Task

NUM_PLAIN, NUM_CUT = 16, 32  # networks of the plain family; more, and closer together, for an imported model
LEAST_TO_LEARN = 1e-3  # nats of the trivial prediction; less means that the data is one repeated symbol
MAX_BYTES = 200  # file names add suffixes to it and may have 255 bytes


def named_space(source: str) -> SpaceSpec:
    """The built-in space or the space of the TOML file `source`. Raises UsageError if it can't be loaded."""
    from searchspace.load import load_space

    if not source:
        raise UsageError("--space is missing: name a space (`nas spaces` lists them) or a TOML file")
    try:
        return load_space(source)
    except ValueError as error:
        reason = str(error).removeprefix(f"space {source}").lstrip(": ")
        raise UsageError(f"--space {source}: {reason}") from error


def source_of(request: SearchRequest) -> tuple[str | SpaceSpec, Recipe | None]:
    """The space that a search names (directly, by its recipe or by its model), and its recipe if it gives one."""
    recipe = request.recipe
    if isinstance(recipe, str):
        recipe = load_recipe(request.space or "", recipe, request.model)
    model_space = str(Path(request.model, "space.toml")) if request.model else ""
    return request.space or (recipe.space if recipe else "") or model_space, recipe


def recipe_for(request: SearchOptions, recipe: Recipe) -> Recipe:
    """The recipe with the options of `request` in place of its own values."""
    goals = request.objectives
    return recipe.changed(
        **request.keys,
        objectives=None if goals is None else [o if isinstance(o, str) else o.name for o in goals],
        bounds={**recipe.bounds, **request.bounds},
    ).trained_for(request.training_steps)


def requested(request: SearchOptions, space: SpaceSpec, recipe: Recipe, *, has_judge: bool = False) -> Study:
    """The study that `request` defines, with the recipe's values for options that are not given; see `plan`."""
    return plan(
        narrowed(space, request.keep),
        recipe_for(request, recipe),
        request.objectives,
        name=request.study,
        device=request.device,
        kernels=request.kernels,
        has_judge=has_judge,
    )


def plan(
    space: SpaceSpec,
    recipe: Recipe,
    objectives: Sequence[str | Objective] | None = None,
    *,
    name: str = "",
    device: str = "cpu",
    kernels: str = "torch",
    has_judge: bool = False,
) -> Study:
    """The study of a new search, neither stored nor run; does not import torch.

    With `has_judge` quality comes from a user-defined evaluation function. Raises UsageError for an invalid name,
    objective or bound, and for a searcher that is unknown or does not suit the space or the objectives.
    """
    name = name or space.name
    check_name(name)
    if recipe.servable:
        try:
            space = servable(space)
        except ValueError as error:
            raise UsageError(f"--servable: space {space.name}: {error}") from error
    recipe = located(recipe, space)
    recipe = recipe if has_judge else recipe.settled()
    if has_judge and not objectives:
        raise UsageError(
            "--objectives is missing: name the values returned by your judge that are to be improved"
        )
    if has_judge and recipe.metric:
        raise UsageError(
            f"--metric {','.join(recipe.metric)}: your own judge replaces the built-in metrics; leave --metric out"
        )
    asked = [] if has_judge or not objectives else metric_names(recipe)
    objectives = objectives or default_objectives(recipe)
    if not has_judge:
        names = [o if isinstance(o, str) else o.name for o in objectives]
        names = [*(name for name in asked if name not in names), *names]
        objectives, recipe, device = objective_syntax.parse(names, recipe, device)
    names = [o if isinstance(o, str) else o.name for o in objectives]
    recipe = recipe.changed(objectives=tuple(names))
    make_searcher(recipe.searcher, Problem(Encoding(space), len(names), recipe.seed, lambda arch: None))
    if has_judge:
        check_distinct(names)
        goals = tuple(_user_objective(o, recipe) for o in objectives)
    else:
        goals = parse_objectives(names, recipe, device)
        if recipe.searcher == "guided" and not any(o.source in ("trained", "inherited") for o in goals):
            recipe = recipe.changed(ladder=())  # without a quality objective nothing is trained
        if space.task == "embedding":
            goals = _of_embeddings(goals)
        goals = with_runtime(goals, recipe, space.task, device)
        more = parse_constraints(recipe, names)
        space = replace(space, constraints=space.constraints + more)
        if recipe.model and any(o.runtime == ONNXRUNTIME for o in goals):
            space = with_int8(space)
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
        settings=Settings(
            recipe.to_json(),
            device,
            kernels=kernels,
            plain=NUM_CUT if recipe.model else NUM_PLAIN,
            designs=True,
        ),
        code_version=code_version(),
    )


def recipe_of(study: Study) -> Recipe:
    return Recipe.from_json(study.settings.recipe)


def code_version() -> str:
    try:
        return version("efficient-transformer-nas")
    except PackageNotFoundError:
        return "source"


def judged(study: Study) -> tuple[Objective, ...]:
    """The quantities a trial is evaluated on: the objectives and, with a user's judge, its other bounded values."""
    if study.quality != "user" or not study.settings.recipe:
        return study.objectives
    names = [o.name for o in study.objectives]
    more = {n: sides for n, sides in recipe_of(study).bounds.items() if n not in names}
    return (
        *study.objectives,
        *(Objective(n, source="user", lower=low, upper=high) for n, (low, high) in more.items()),
    )


def check_name(name: str, option: str = "--study") -> None:
    """Raises UsageError if `name` can't name a study, since names become parts of file names and URLs."""
    is_plain = name.isprintable() and name.strip() == name and not any(c in name for c in "/\\")
    if (
        not is_plain
        or name.startswith(".")
        or not 0 < len(name) <= MAX_NAME
        or len(name.encode()) > MAX_BYTES
    ):
        raise UsageError(
            f"{option} {shown(name)}: names become file names and URLs; give 1 to {MAX_NAME} printable characters, at "
            f"most {MAX_BYTES} bytes, without a slash, and no dot at the start"
        )


def _user_objective(objective: str | Objective, recipe: Recipe) -> Objective:
    if isinstance(objective, str):
        objective = Objective(objective)
    own = recipe.bounds.get(objective.name, (objective.lower, objective.upper))
    return replace(objective, source="user", lower=own[0], upper=own[1])


def _of_embeddings(goals: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """The objectives with the unit of an embedding loss, 1 - cosine. Raises UsageError for a proxy."""
    for goal in goals:
        if goal.source == "proxy":
            raise UsageError(f"--objectives {goal.name}: a proxy needs classes to predict, this model embeds")
    return tuple(replace(g, unit="1 - cosine") if g.unit == "nats" else g for g in goals)


def checked(study: Study) -> Study:
    """Check a planned study before it is stored; returns it with the content ids of its data and model.

    The result has training lengths that fit its time limit and, if networks are trained, an upper bound on their loss:
    that of the trivial prediction. Raises UsageError if the study can't run here, for example on unreadable data.
    """
    recipe, device = recipe_of(study), study.settings.device
    space = SpaceSpec.from_json(study.space)
    check_device(device)
    check_kernels(study.settings.kernels, device)
    _check_bounds(space, recipe.workload)
    if recipe.model:
        _check_windows(space)
    task = task_of(recipe, space)
    check_metrics(study, task)
    _check_gate(recipe, space)
    _check_formats(space, study.objectives, recipe.workload, device, study.runtime)
    recipe = fitted(identified(recipe, task), space, task, device)
    study = replace(study, settings=replace(study.settings, recipe=recipe.to_json()))
    baseline = task.trivial_baseline() if recipe.beat_baseline else None
    if baseline is not None and baseline[1] < LEAST_TO_LEARN:
        raise UsageError(
            f"--data {task.name}: {baseline[0]} predicts what is held out with a loss of {baseline[1]:.2g} nats, so "
            f"there is nothing to learn; give data with more than one symbol"
        )
    return study if baseline is None else _beating(study, *baseline)


def check_metrics(study: Study, task: Task) -> None:
    """Raises UsageError for a metric that the task does not support, and for a function that may not be imported."""
    from nas.tasks.metrics import check_metric

    for objective in study.objectives:
        if objective.source in ("inherited", "trained"):
            check_metric(objective.name, task, bool(recipe_of(study).model))


def own_metrics(study: Study) -> list[str]:
    """The user-defined metrics of the study, as module:function."""
    return [o.name for o in study.objectives if o.source in ("inherited", "trained") and is_own(o.name)]


def _beating(study: Study, words: str, loss: float) -> Study:
    """The study with `loss`, that of the trivial prediction described by `words`, as upper bound on trained losses."""
    goals = tuple(
        replace(o, upper=min(loss, o.upper if o.upper is not None else loss))
        if o.name == "loss" and o.source == "trained"
        else o
        for o in study.objectives
    )
    if goals == study.objectives:
        return study
    return replace(study, objectives=goals, settings=replace(study.settings, baseline=Baseline(words, loss)))


def check_device(device: str) -> None:
    """Raises UsageError for an unknown device, and for cuda if torch finds no CUDA device."""
    if device not in DEVICES:
        raise UsageError(f"--device: {unknown(device, DEVICES)}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device here; use cpu")


def with_kernels(study: Study, kernels: str) -> Study:
    """The study with its operators run by `kernels`; unchanged if "". Raises UsageError like `check_kernels`."""
    if not kernels:
        return study
    check_kernels(kernels, study.settings.device)
    return replace(study, settings=replace(study.settings, kernels=kernels))


def check_kernels(kernels: str, device: str) -> None:
    """Raises UsageError for kernels that can't run on `device` or on this machine."""
    if kernels == "torch":
        return
    from searchspace.kernels import dispatch

    reason = dispatch.why_not(kernels, device)
    if reason is not None:
        raise UsageError(f"--kernels {kernels}: {reason}")


def _check_bounds(space: SpaceSpec, workload: Workload) -> None:
    """Raises UsageError for an upper bound below the cost of the stem and head of the space's narrowest network.

    No network of the space can meet such a bound, which random sampling would only find out slowly. Checks only spaces
    of one stage, where no other decision makes a network narrower.
    """
    from searchspace.cost import cost

    bounded = {c.quantity: c.upper for c in space.constraints if c.upper is not None}
    if not bounded or len(space.stages) > 1 or any(b.quant for b in space.stages[0].blocks):
        return
    encoding = Encoding(space)
    narrowest = min(range(len(space.d_model.values)), key=lambda i: float(space.d_model.values[i]))
    arch = encoding.decode(tuple(narrowest if v.name == "d_model" else 0 for v in encoding.variables))
    blocks = tuple(replace(b, mixer=NONE, ffn=NONE) for b in arch.blocks)
    least = cost(replace(arch, blocks=blocks, position=NONE, final_norm=NONE), workload)
    for quantity, upper in bounded.items():
        if upper < getattr(least, quantity):
            raise UsageError(
                f"--max: no network of space {space.name} has {quantity} of at most {upper:g}: its "
                f"narrowest stem and head alone have {getattr(least, quantity):,}"
            )


def _check_windows(space: SpaceSpec) -> None:
    """Raises UsageError for an attention window as long as the evaluated sequences, which would have no effect."""
    from nas.importing.space import judged_length

    length = judged_length(space.stem)
    offered = {c for stage in space.stages for block in stage.blocks for c in block.mixer.candidates}
    for candidate in offered:
        window = dict(candidate.items).get("window")
        if isinstance(window, Choice) and len(window.values) > 1 and max(map(int, window.values)) >= length:
            raise UsageError(
                f"--space {space.name}: {candidate.op} offers window = {max(map(int, window.values))}, but networks "
                f"are judged on {length} tokens; offer windows of fewer tokens"
            )


def _check_gate(recipe: Recipe, space: SpaceSpec) -> None:
    """Raises UsageError for a proxy that ranks no better than parameter count: it would discard good networks."""
    if "proxy" not in recipe.ladder or recipe.gate_anyway:
        return
    reason = may_gate(space.name, PROXY)
    if reason is not None:
        raise UsageError(f"--ladder proxy: {reason}; add --gate-anyway to use it nevertheless")


def _check_formats(
    space: SpaceSpec, objectives: Sequence[Objective], workload: Workload, device: str, runtime: str
) -> None:
    """Raises UsageError for a number format whose latency would be simulated, if latency is an objective."""
    decisions = {(n, d) for stage in space.stages for block in stage.blocks for n, d in block.quant}
    if all(o.source != "predicted" for o in objectives) or not decisions:
        return
    from predictors.operator_grid import why_not_timed

    for name, decision in sorted(decisions, key=lambda found: found[0]):
        for value in decision.formats.values:
            reason = why_not_timed(quant_policy([(decision, str(value))]), workload, device, runtime)
            if reason is not None:
                raise UsageError(
                    f"--objectives latency: space {space.name} offers {name} = {value}: {reason}"
                )
