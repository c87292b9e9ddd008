"""The Python API: start a study, go on with one, read its front.

    result = nas.search(space="tiny-lm", objectives=["loss", "latency"], trials=200)
    result = nas.search(space="tiny-lm", objectives=["score"], evaluate=lambda arch: {"score": ...})
    result = nas.resume("tiny-lm", trials=100)

The command line is these functions with a display.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas.engine import Ended, Event, run
from nas.errors import UsageError
from nas.evaluation.quantities import QUANTITIES
from nas.execution.outcome import Evaluate
from nas.finalists import measure_finalists
from nas.home import default_db as default_db
from nas.searchers.base import Problem, Searcher
from nas.searchers.registry import make_searcher
from nas.setup.content import check_given, task_of
from nas.setup.plan import checked, named_space, plan, recipe_of
from nas.setup.preparation import OnStep, Step, prepare
from nas.setup.recipe import Recipe, load_recipe
from nas.setup.runners import Choice, make_runner
from nas.setup.target import aimed
from nas.setup.warm_start import noted, results
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.pareto import front
from studies.records import TRIAL_STATES, Objective, Study, Trial
from studies.store import Store

BYTES = {"memory"}


@dataclass(frozen=True, repr=False)
class Result:
    """A study as it stands: all trials, the non-dominated ones, and why it stopped."""

    study: Study
    trials: list[Trial]
    front: list[Trial]
    reason: str = ""

    def __repr__(self) -> str:
        states = Counter(t.state for t in self.trials)
        found = ", ".join(f"{states[s]} {s}" for s in TRIAL_STATES if s in states) or "no trials"
        return f"<study {self.study.name!r}: {found}; {len(self.front)} on the front>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from nas.presentation.html_report import fragment

        return fragment(self)


@dataclass(frozen=True)
class Hooks:
    """What a display wants to hear of."""

    on_step: OnStep = lambda step: None
    on_event: Callable[[Event], None] = lambda event: None
    on_study: Callable[[Study], None] = lambda study: None


def search(
    *,
    space: str | SpaceSpec | None = None,
    objectives: Sequence[str | Objective] | None = None,
    evaluate: Evaluate | None = None,
    study: str = "",
    db: str = "",
    trials: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    lag: int | None = None,
    searcher: str | None = None,
    quality: str | None = None,
    ladder: Sequence[str] | None = None,
    gate_anyway: bool | None = None,
    data: str | None = None,
    model: str | None = None,
    recovery_steps: int | None = None,
    warm_start: str = "",
    target: str = "",
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    device: str = "cpu",
    runner: str = "",
    workers: int = 0,
    address: str = "",
    gpus_per_worker: float = 0.0,
    recipe: Recipe | None = None,
    hooks: Hooks | None = None,
) -> Result:
    """Search a space and keep every trial in the database at `db`.

    `evaluate` is the user's own judge, ArchSpec -> {objective name: value}; without it the objectives are those of
    `nas search --help`, judged as `quality` says. Values that are not given come from the recipe of the space.
    `ladder` names the cheaper judgements by which the searcher halving chooses who gets that of `quality`; a user's own
    judge is then called with the name of the rung as second argument. Its rung proxy is refused where the proxy is not
    known to rank the space's networks better than their size, unless `gate_anyway`.
    `warm_start` names an earlier study in the database, on the same space with the same objectives, whose results the
    guided searcher learns from.
    `target` is the folder of a device's profile, as `nas profile` writes it: latency is predicted for that device.
    `model` is the folder of an imported one: its weights are the supernet, its own space.toml the default space.
    Raises UsageError for what can't be done as asked, StoreError where the database refuses.
    """
    check_given("--data", data, "plays, digits, mnist, or the path of your text")
    check_given("--model", model, "the folder of an imported model")
    source = space or (recipe.space if recipe else "") or (str(Path(model, "space.toml")) if model else "")
    resolved = source if isinstance(source, SpaceSpec) else named_space(source)
    recipe = recipe or load_recipe(resolved.name)
    recipe = recipe.changed(
        trials=trials,
        minutes=minutes,
        seed=seed,
        lag=lag,
        searcher=searcher,
        quality=quality,
        ladder=None if ladder is None else tuple(ladder),
        gate_anyway=gate_anyway,
        data=data,
        data_id=None if data is None else "",
        model_id=None if model is None else "",
        model=str(Path(model).resolve()) if model else None,
        recovery_steps=recovery_steps,
    )
    chosen = Choice(runner, workers, address, gpus_per_worker)
    chosen.check()
    planned = plan(
        resolved, recipe, objectives, name=study, bounds=bounds, device=device, has_judge=evaluate is not None
    )
    if lag is None:
        planned = replace(planned, lag=max(planned.lag, 2 * workers))
    if evaluate is None:
        planned = checked(planned, resolved)
    with_store = Store(db or default_db())
    try:
        planned = noted(with_store, planned, warm_start) if warm_start else planned
        created = with_store.create_study(aimed(with_store, planned, target) if target else planned)
        return _drive(with_store, created, evaluate, chosen, hooks or Hooks())
    finally:
        with_store.close()


def resume(
    study: str,
    *,
    db: str = "",
    trials: int = 0,
    minutes: float | None = None,
    evaluate: Evaluate | None = None,
    runner: str = "",
    workers: int = 0,
    address: str = "",
    gpus_per_worker: float = 0.0,
    hooks: Hooks | None = None,
) -> Result:
    """Go on with a study, with `trials` more than it was to have: the trajectory of a run that was never stopped.

    Raises UsageError where the study was judged by the user's own function and none is given.
    """
    chosen = Choice(runner, workers, address, gpus_per_worker)
    chosen.check()
    store = Store(db or default_db())
    try:
        found = store.study(study)
        if found.quality == "user" and evaluate is None and runner != "workers":
            raise UsageError(
                f"study {study!r} was judged by a function of yours: resume it with evaluate=..."
            )
        if trials < 0:
            raise UsageError(f"--trials {trials}: a resume adds trials, so give a positive number")
        if trials or minutes is not None:
            if found.quality != "user":  # what is refused changes nothing
                task_of(recipe_of(found), SpaceSpec.from_json(found.space))
            seconds = minutes * 60 if minutes is not None else found.max_seconds
            found = store.update_budget(found, found.max_trials + trials, seconds)
        return _drive(store, found, evaluate, chosen, hooks or Hooks())
    finally:
        store.close()


def read(study: str, *, db: str = "", archs: bool = True) -> Result:
    """A study as the database holds it, without running anything.

    Without `archs` only the trials of the front have their architecture: faster by far in a large study.
    """
    with closing(Store(db or default_db())) as store:
        found = store.study(study)
        if archs:
            return _result(store, found)
        trials = store.results(found)
        best = [t.number for t in front(trials, found.objectives)]
        return Result(found, trials, front(store.trials(found, numbers=best), found.objectives))


def _drive(store: Store, study: Study, evaluate: Evaluate | None, chosen: Choice, hooks: Hooks) -> Result:
    recipe, space = recipe_of(study), SpaceSpec.from_json(study.space)
    hooks.on_study(study)
    settings: dict[str, Any] = {}
    if study.quality != "user":
        settings = prepare(store, study, space, recipe, study.settings["device"], hooks.on_step)
        study = store.study(study.name)
    ended: list[Ended] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Ended):
            ended.append(event)
        hooks.on_event(event)

    with_runner = make_runner(chosen, store, study, evaluate, settings)
    try:
        searcher = _searcher(store, study, _problem(space, recipe, study), recipe.workload)
        study = run(study, store, searcher, with_runner, on_event=on_event)
    finally:
        with_runner.close()
    if study.state == "finished" and settings.get("profile") and "target" not in study.settings:
        folder = Path(settings["profile"])
        measure_finalists(
            store,
            study,
            recipe,
            folder,
            lambda done, total: hooks.on_step(Step("re-measuring finalists", done, total)),
        )
    result = replace(_result(store, study), reason=ended[0].reason if ended else "")
    if evaluate is not None and result.trials and not result.front:
        warnings.warn(f"{result!r}; {_last_error(result.trials)}", stacklevel=3)
    return result


def _last_error(trials: Sequence[Trial]) -> str:
    reasons = [t.error for t in trials if t.error]
    return f"the last failed with: {reasons[-1]}" if reasons else "none gave all objectives within the bounds"


def _problem(space: SpaceSpec, recipe: Recipe, study: Study) -> Problem:
    from searchspace.quantization.offers import why_slow
    from searchspace.quantization.sensitivity import first_architectures
    from searchspace.validity import violations, why_invalid

    # a format that is slower than bf16 pays by its bytes alone
    bytes_count = bool(recipe.bounds.keys() & BYTES) or any(o.name in BYTES for o in study.objectives)
    fast_only = any(o.source == "predicted" for o in study.objectives) and not bytes_count

    def why(arch: ArchSpec) -> str | None:
        reason = why_invalid(arch)
        if reason is None and fast_only:
            reason = why_slow(arch, recipe.workload, study.settings["device"])
        if reason is not None:
            return reason
        missed = violations(arch, space.constraints, recipe.workload)
        return f"misses the bound on {', '.join(missed)}" if missed else None

    encoding = Encoding(space)
    first = tuple(map(encoding.encode, first_architectures(encoding)))
    return Problem(encoding, len(study.objectives), study.seed, why, recipe.ladder, first)


def _searcher(store: Store, study: Study, problem: Problem, workload: Workload) -> Searcher:
    """The guided one is also given the results of an earlier study, and the losses that need no evaluation."""
    if study.searcher != "guided":
        return make_searcher(study.searcher, problem)
    from nas.searchers.guided_searcher import GuidedSearcher

    exact = {j: partial(_cost, o, workload) for j, o in enumerate(study.objectives) if o.source == "cost"}
    return GuidedSearcher(problem, results(store, study, problem.encoding), exact)


def _cost(objective: Objective, workload: Workload, arch: ArchSpec) -> float:
    from searchspace.cost import cost

    quantity = QUANTITIES[objective.name]
    return objective.loss(getattr(cost(arch, workload), quantity.cost) / quantity.scale)


def _result(store: Store, study: Study) -> Result:
    trials = store.trials(study)
    return Result(study, trials, front(trials, study.objectives))
