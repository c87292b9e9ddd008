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
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nas.engine import INTERRUPTED, STOPPED, Ended, Event, run
from nas.errors import ArtifactError, NasError, StoreError, UsageError
from nas.evaluation.quantities import QUANTITIES
from nas.execution.lease import Lease, Paused, Stopped
from nas.execution.outcome import Evaluate
from nas.finalists import measure_finalists
from nas.home import default_db as default_db
from nas.measuring import MeasuringFailed
from nas.searchers.base import Problem, Searcher
from nas.searchers.registry import make_searcher
from nas.setup.content import check_given, task_of
from nas.setup.plan import checked, named_space, plan, recipe_of
from nas.setup.preparation import OnStep, Step, kernels_of, prepare
from nas.setup.recipe import Recipe, load_recipe
from nas.setup.runners import Choice, check_judge, make_runner
from nas.setup.target import aimed
from nas.setup.warm_start import noted, results
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.spec.workload import Workload
from studies.control import change
from studies.database import must_exist
from studies.editing import delete_study
from studies.errors import LeaseLost, StoreUnavailable
from studies.pareto import front
from studies.patience import OnWait, Patience
from studies.records import TRIAL_STATES, Objective, Study, Trial
from studies.store import Store

BYTES = {"memory"}
CLIMBING = {"trained", "inherited", "user"}  # sources that a dearer judgement knows better
T = TypeVar("T")


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
    """What a display wants to hear of; `on_wait` what is waited for (a lock, a full disk), "" when that is over."""

    on_step: OnStep = lambda step: None
    on_event: Callable[[Event], None] = lambda event: None
    on_study: Callable[[Study], None] = lambda study: None
    on_wait: OnWait = lambda reason: None


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
    kernels: str = "torch",
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
    `kernels` says what operators run by on a CUDA device: torch, triton, or auto, the faster by its table.
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
        resolved,
        recipe,
        objectives,
        name=study,
        bounds=bounds,
        device=device,
        kernels=kernels,
        has_judge=evaluate is not None,
    )
    if lag is None:
        planned = replace(planned, lag=max(planned.lag, 2 * workers))
    if evaluate is None:
        planned = checked(planned, resolved)
    else:
        check_judge(chosen, planned, evaluate)
    hooks = hooks or Hooks()
    with_store = Store(db or default_db(), Patience.endless(hooks.on_wait))
    try:
        planned = noted(with_store, planned, warm_start) if warm_start else planned
        planned = aimed(with_store, planned, target) if target else planned
        bounded = SpaceSpec.from_json(planned.space)
        problem = _problem(bounded, recipe_of(planned), planned)
        _searcher(with_store, planned, problem, recipe_of(planned).workload).ask(0)  # refused before training
        created = with_store.create_study(planned)
        try:
            return drive(with_store, created, evaluate, chosen, hooks)
        except UsageError:
            if not any(t.is_finished for t in with_store.results(created)):
                with suppress(StoreError):  # else its name would be taken by what can't be done
                    delete_study(with_store, created)
            raise
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
    hooks = hooks or Hooks()
    store = opened(db, Patience.endless(hooks.on_wait))
    try:
        found = store.study(study)
        if found.quality == "user" and evaluate is None and runner != "workers":
            raise UsageError(
                f"study {study!r} was judged by a function of yours: resume it with evaluate=..."
            )
        if trials < 0:
            raise UsageError(f"--trials {trials}: a resume adds trials, so give a positive number")
        if (trials or minutes is not None) and found.quality != "user":  # what is refused changes nothing
            task_of(recipe_of(found), SpaceSpec.from_json(found.space))
        return drive(store, found, evaluate, chosen, hooks, more_trials=trials, minutes=minutes)
    finally:
        store.close()


def read(study: str, *, db: str = "", archs: bool = True) -> Result:
    """A study as the database holds it, without running anything.

    Without `archs` only the trials of the front have their architecture: faster by far in a large study.
    """
    with closing(opened(db)) as store:
        found = store.study(study)
        if archs:
            return _result(store, found)
        trials = store.results(found)
        best = [t.number for t in front(trials, found.objectives)]
        return Result(found, trials, front(store.trials(found, numbers=best), found.objectives))


def opened(db: str = "", patience: Patience | None = None) -> Store:
    """A database that is there, by default that of `default_db`. Raises StoreError for a file that is not.

    Only what begins a study makes a database: a mistyped path is an error everywhere else.
    """
    must_exist(db or default_db())
    return Store(db or default_db(), patience)


def drive(
    store: Store,
    study: Study,
    evaluate: Evaluate | None,
    chosen: Choice,
    hooks: Hooks,
    *,
    more_trials: int = 0,
    minutes: float | None = None,
    for_workers: bool = False,
) -> Result:
    """Prepare a study, search, and time its finalists, all under the study's lease.

    `more_trials` are added to its budget, `minutes` replace what it allows itself.
    A study waits while it is paused, and ends as stopped where a stop is wanted of it. What is wanted of it stays as it
    is only where it is driven `for_workers`: by hand, to drive it is to want it.
    Raises LeaseHeld, naming the holder, where another process drives the study. Any other error is noted in the study
    as what it failed with; a study that is interrupted is stopped, in its preparation too.
    """
    with Lease(store, study) as lease:
        study = store.study(study.name)  # as the last holder of the lease left it
        if more_trials or minutes is not None:
            seconds = minutes * 60 if minutes is not None else study.max_seconds
            study = store.update_budget(study, study.max_trials + more_trials, seconds)
        by_hand: dict[str, Any] = {} if for_workers else {"control": ""}
        study = change(store, study, state="running", problem="", **by_hand)
        try:
            result = _search_under(lease, store, study, evaluate, chosen, hooks)
            return replace(result, study=change(store, result.study, **by_hand))
        except (KeyboardInterrupt, Stopped) as end:
            reason = STOPPED
            if isinstance(end, KeyboardInterrupt):
                reason = INTERRUPTED
                store.patience.end()
            study = store.study(study.name)
            state = (
                study.state if study.state == "finished" else "stopped"
            )  # which it is while finalists are timed
            study = change(store, study, state=state, **by_hand)
            return replace(_result(store, study), reason=reason)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as error:
            kind = "" if isinstance(error, NasError | StoreError) else f"{type(error).__name__}: "
            with suppress(StoreError):
                change(store, study, state="failed", problem=f"{kind}{error}", control="")
            raise


def _search_under(
    lease: Lease, store: Store, study: Study, evaluate: Evaluate | None, chosen: Choice, hooks: Hooks
) -> Result:
    recipe, space = recipe_of(study), SpaceSpec.from_json(study.space)
    hooks.on_study(study)

    def on_step(step: Step) -> None:
        lease.progress.advance(step.name, step.done, step.total, step.text)
        hooks.on_step(step)
        lease.obey()

    settings: dict[str, Any] = {}
    if study.quality != "user":
        device = study.settings["device"]
        if kernels_of(study) == "auto":
            from searchspace.kernels.choice import why_torch_here

            on_step(Step("kernels", 1, 1, why_torch_here() or "auto takes the faster of torch and triton"))
        prepared = partial(prepare, store, study, space, recipe, device, on_step)
        settings = _unless_paused(lease, partial(store.patience.retry, prepared))
        study = store.study(study.name)
    ended: list[Ended] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Ended):
            ended.append(event)
        hooks.on_event(event)

    with_runner = make_runner(chosen, store, study, evaluate, settings)
    try:
        searcher = _searcher(store, study, _problem(space, recipe, study), recipe.workload)
        study = run(study, store, searcher, with_runner, lease=lease, on_event=on_event)
    finally:
        with_runner.close()
    reason = ended[0].reason if ended else ""
    if study.state == "finished" and settings.get("profile") and "target" not in study.settings:
        try:
            timed = partial(
                measure_finalists,
                store,
                study,
                recipe,
                Path(settings["profile"]),
                lambda done, total: on_step(Step("re-measuring finalists", done, total)),
            )
            _unless_paused(lease, timed)
        except (ArtifactError, MeasuringFailed) as error:  # the search itself has what it was to find
            study = change(store, study, problem=str(error))
            reason = f"{reason}; {error}"
    result = replace(_result(store, study), reason=reason)
    if evaluate is not None and result.trials and not result.front:
        warnings.warn(f"{result!r}; {_last_error(result.trials)}", stacklevel=4)
    return result


def _unless_paused(lease: Lease, work: Callable[[], T]) -> T:
    """What `work` returns, which begins again after a pause and keeps what it has done."""
    while True:
        try:
            return work()
        except Paused:
            lease.may_go_on()


def _last_error(trials: Sequence[Trial]) -> str:
    reasons = [t.error for t in trials if t.error]
    return f"the last failed with: {reasons[-1]}" if reasons else "none gave all objectives within the bounds"


def _problem(space: SpaceSpec, recipe: Recipe, study: Study) -> Problem:
    from searchspace.plain import plain_family
    from searchspace.quantization.offers import why_slow
    from searchspace.quantization.sensitivity import first_architectures
    from searchspace.sampling import by_size, even_steps
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
    # A study that was begun before there was a plain family goes on without, and draws as it did.
    is_old = "plain" not in study.settings
    num_plain: int = study.settings.get("plain", 0)
    is_narrow = bool(recipe.model or space.constraints)  # sizes that are seldom drawn
    steps = even_steps(encoding, recipe.workload, lambda arch: why(arch) is None) if is_narrow else ()
    formats = map(encoding.encode, first_architectures(encoding))
    return Problem(
        encoding,
        len(study.objectives),
        study.seed,
        why,
        recipe.ladder,
        climbing=frozenset(j for j, o in enumerate(study.objectives) if o.source in CLIMBING),
        plain=plain_family(encoding, why, recipe.workload, bool(recipe.model), num_plain),
        first=tuple(dict.fromkeys((*formats, *(() if is_old else steps)))),
        draw=None if is_old else by_size(encoding, recipe.workload, space.constraints),
    )


def _searcher(store: Store, study: Study, problem: Problem, workload: Workload) -> Searcher:
    """The guided one is also given the results of an earlier study, and the losses that need no evaluation."""
    if study.searcher != "guided":
        return make_searcher(study.searcher, problem)
    from nas.searchers.guided_searcher import GuidedSearcher

    exact = {j: partial(_cost, o, workload) for j, o in enumerate(study.objectives) if o.source == "cost"}
    earlier = results(store, study, problem.encoding)
    known = {told.genome for told in earlier}
    opening = {n: tuple(g for g in getattr(problem, n) if g not in known) for n in ("plain", "first")}
    problem = replace(problem, plain=opening["plain"], first=opening["first"])
    return GuidedSearcher(problem, earlier, exact)


def _cost(objective: Objective, workload: Workload, arch: ArchSpec) -> float:
    from searchspace.cost import cost

    quantity = QUANTITIES[objective.name]
    return objective.loss(getattr(cost(arch, workload), quantity.cost) / quantity.scale)


def _result(store: Store, study: Study) -> Result:
    trials = store.trials(study)
    return Result(study, trials, front(trials, study.objectives))
