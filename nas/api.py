"""The Python API: start, resume and read studies.

    result = nas.search(space="tiny-lm", objectives=["loss", "latency"], trials=200)
    result = nas.search(space="tiny-lm", objectives=["score"], evaluate=lambda arch: {"score": ...})
    result = nas.resume("tiny-lm", trials=100)

The command line calls `searched` and `resumed`, with a display.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nas.content import task_of
from nas.engine import INTERRUPTED, STOPPED, Ended, Event, run
from nas.errors import ArtifactError, NasError, StoreError, UsageError
from nas.execution.lease import Lease, Paused, Stopped
from nas.execution.outcome import Evaluate
from nas.finalists import measure_finalists
from nas.home import default_db as default_db
from nas.measuring import MeasuringFailed
from nas.presentation.result import Result as Result
from nas.request.functions import python_function
from nas.request.recipe import Recipe, load_recipe
from nas.request.schema import ResumeRequest, SearchRequest
from nas.searchers.base import Problem, Searcher
from nas.searchers.registry import make_searcher
from nas.setup.plan import checked, named_space, own_metrics, recipe_of, requested, source_of
from nas.setup.preparation import OnStep, Step, prepare
from nas.setup.runners import Choice, check_judge, make_runner
from nas.setup.runtime import in_runtime, without_int8
from nas.setup.target import with_target
from nas.setup.warm_start import results, with_warm_start
from nas.tasks.metric_names import permit, why_not_permitted
from predictors.runtimes import EAGER
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.control import change
from studies.database import must_exist
from studies.editing import delete_study
from studies.errors import LeaseLost, StoreUnavailable
from studies.latencies import latencies
from studies.pareto import front
from studies.patience import OnWait, Patience
from studies.records import Control, Study, StudyState, Trial
from studies.store import Store
from studies.worth import floor_share, quality_of, share_of

BYTES = {"memory"}
MOST_PREPARING = 0.5  # of a time limit, that preparing counts for: trials are what the time is for
CLIMBING = {"trained", "inherited", "user"}  # sources that a dearer judgement knows better
T = TypeVar("T")


@dataclass(frozen=True)
class Hooks:
    """Callbacks for progress; `on_wait` gets what a search waits for (a lock, a full disk), "" when that is over."""

    on_step: OnStep = lambda step: None
    on_event: Callable[[Event], None] = lambda event: None
    on_study: Callable[[Study], None] = lambda study: None
    on_wait: OnWait = lambda reason: None


def searched(request: SearchRequest) -> Result:
    """Search a space and store every trial in the database. Errors name options like the command line.

    Raises UsageError for an invalid request and StoreError if the database can't be used.
    """
    source, recipe = source_of(request)
    space = source if isinstance(source, SpaceSpec) else named_space(source)
    chosen = Choice.of(request)
    evaluate = request.evaluate
    permit(request.given.get("metric", ()))  # those of a recipe file, which others may have written, are not
    planned = requested(
        request, space, recipe or load_recipe(space, model=request.model), has_judge=evaluate is not None
    )
    if "lag" not in request.given:
        planned = replace(planned, lag=max(planned.lag, 2 * request.workers))
    if evaluate is None:
        planned = checked(planned)
    else:
        check_judge(chosen, planned, evaluate)
    hooks = request.hooks or Hooks()
    store = Store(request.db or default_db(), Patience.endless(hooks.on_wait))
    try:
        planned = (
            without_int8(with_target(store, planned, request.target), space)
            if request.target
            else _in_runtime(planned, space, hooks)
        )
        planned = with_warm_start(store, planned, request.warm_start) if request.warm_start else planned
        bounded = SpaceSpec.from_json(planned.space)
        problem = _problem(bounded, recipe_of(planned), planned)
        _searcher(store, planned, problem, recipe_of(planned)).ask(0)  # refused before training
        created = store.create_study(planned)
        try:
            return drive(store, created, evaluate, chosen, hooks)
        except UsageError:
            if not any(t.is_finished for t in store.results(created)):
                with suppress(StoreError):  # else its name would be taken by what can't be done
                    delete_study(store, created)
            raise
    finally:
        store.close()


@python_function(SearchRequest)
def search(request: SearchRequest) -> Result:
    """Search a space, store every trial in the database, and return the study's result.

    Options that are not given take the values of the space's recipe. `evaluate` is a user-defined function that maps an
    ArchSpec to {objective name: value}; `objectives` then names the values to improve. Without it objectives are those
    of `nas search --help`, measured as `quality` says. With a ladder it gets the name of the rung as second argument.
    Raises UsageError for an invalid request, and StoreError if the database can't be used.
    """
    return searched(request)


def resumed(request: ResumeRequest) -> Result:
    """Resume a study. Errors name options like the command line. Raises like `resume`."""
    evaluate, trials, minutes = request.evaluate, request.trials, request.minutes
    chosen = Choice.of(request)
    hooks = request.hooks or Hooks()
    store = opened(request.db, Patience.endless(hooks.on_wait))
    try:
        study = store.study(request.study)
        permit(request.metric)
        for name in own_metrics(study) if request.runner != "workers" else ():
            if reason := why_not_permitted(name):
                raise UsageError(reason)
        if study.quality == "user" and evaluate is None and request.runner != "workers":
            raise UsageError(
                f"study {study.name!r} was judged by a function of yours: resume it with evaluate=..."
            )
        if (trials or minutes is not None) and study.quality != "user":  # what is refused changes nothing
            task_of(recipe_of(study), SpaceSpec.from_json(study.space))
        return drive(store, study, evaluate, chosen, hooks, more_trials=trials, minutes=minutes)
    finally:
        store.close()


@python_function(ResumeRequest)
def resume(request: ResumeRequest) -> Result:
    """Resume a study, with `trials` added to its maximum, and return its result.

    It proposes the same architectures as a run that was never stopped. Raises UsageError if the study needs a
    user-defined function that is not given, or can't be resumed as asked; LeaseHeld, naming the process, if another one
    runs the study; StoreError if the database can't be used.
    """
    return resumed(request)


def read(study: str, *, db: str = "", archs: bool = True) -> Result:
    """The current result of the study named `study`, without running anything.

    Without `archs` only the trials of the front have their architecture, which is much faster for a large study. `db`
    is the database's URL, default $NAS_DB or sqlite:///nas.db. Raises StoreError for an unknown database or study.
    """
    with closing(opened(db)) as store:
        found = store.study(study)
        if archs:
            return _result(store, found)
        trials = store.results(found)
        best = [t.number for t in front(trials, found.objectives)]
        return _result(store, found, trials, store.trials(found, numbers=best))


def opened(db: str = "", patience: Patience | None = None) -> Store:
    """An existing database, by default that of `default_db`. Raises StoreError if its file does not exist.

    Only starting a study creates a database, so that a mistyped path is an error everywhere else.
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
    """Prepare a study, search, and time its finalists, all under the study's lease; returns its result.

    `more_trials` are added to its budget, `minutes` replace its time limit.
    The study waits while it is paused, and ends as stopped if a stop is requested. With `for_workers` its wanted state
    (`control`) is kept; otherwise it is cleared, since driving a study by hand overrides it.
    Raises LeaseHeld, naming the holder, if another process drives the study. Any other error is stored in the study as
    its problem before it is raised; an interrupted study is stopped, also during preparation.
    """
    with Lease(store, study) as lease:
        study = store.study(study.name)  # as the last holder of the lease left it
        if more_trials or minutes is not None:
            seconds = minutes * 60 if minutes is not None else study.max_seconds
            study = store.update_budget(study, study.max_trials + more_trials, seconds)
        by_hand: dict[str, Any] = {} if for_workers else {"control": Control.NONE}
        study = change(store, study, state=StudyState.RUNNING, problem="", **by_hand)
        try:
            result = _search_under(lease, store, study, evaluate, chosen, hooks)
            return replace(result, study=change(store, result.study, **by_hand))
        except (KeyboardInterrupt, Stopped) as end:
            reason = STOPPED
            if isinstance(end, KeyboardInterrupt):
                reason = INTERRUPTED
                store.patience.end()
            study = store.study(study.name)
            # it is finished while finalists are timed
            is_finished = study.state == StudyState.FINISHED
            state = StudyState.FINISHED if is_finished else StudyState.STOPPED
            study = change(store, study, state=state, **by_hand)
            return replace(_result(store, study), reason=reason)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as error:
            kind = "" if isinstance(error, NasError | StoreError) else f"{type(error).__name__}: "
            with suppress(StoreError):
                change(store, study, state=StudyState.FAILED, problem=f"{kind}{error}", control=Control.NONE)
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
    begun = time.monotonic()
    if study.quality != "user":
        device = study.settings.device
        if study.settings.kernels == "auto":
            from searchspace.kernels.choice import why_torch_here

            on_step(Step("kernels", 1, 1, why_torch_here() or "auto takes the faster of torch and triton"))
        prepared = partial(prepare, store, study, space, device, on_step)
        settings = _unless_paused(lease, partial(store.patience.retry, prepared))
        study = store.study(study.name)
        recipe = recipe_of(study)
    ended: list[Ended] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Ended):
            ended.append(event)
        hooks.on_event(event)

    with_runner = make_runner(chosen, store, study, evaluate, settings)
    try:
        profile = Path(settings["profile"]) if settings.get("profile") else None
        searcher = _searcher(store, study, _problem(space, recipe, study), recipe, profile)
        spent = min(time.monotonic() - begun, MOST_PREPARING * (study.max_seconds or 0.0))
        study = run(study, store, searcher, with_runner, lease=lease, on_event=on_event, seconds_spent=spent)
    finally:
        with_runner.close()
    reason = ended[0].reason if ended else ""
    was_stopped = reason in (STOPPED, INTERRUPTED)
    if not was_stopped and settings.get("profile") and not study.settings.target:
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
        warnings.warn(f"{result!r}; {_last_error(result.trials)}", stacklevel=6)
    return result


def _unless_paused(lease: Lease, work: Callable[[], T]) -> T:
    """The result of `work`, which is called again after each pause and has to keep its progress."""
    while True:
        try:
            return work()
        except Paused:
            lease.may_go_on()


def _last_error(trials: Sequence[Trial]) -> str:
    reasons = [t.error for t in trials if t.error]
    return f"the last failed with: {reasons[-1]}" if reasons else "none gave all objectives within the bounds"


def _in_runtime(planned: Study, space: SpaceSpec, hooks: Hooks) -> Study:
    """`in_runtime` with progress, because exporting a space's operators to onnxruntime for the first time is slow."""
    if planned.runtime == EAGER:
        return planned
    name = f"exporting one of each operator to {planned.runtime}"
    hooks.on_step(Step(name, 0, 1))
    found = in_runtime(planned, space)
    hooks.on_step(Step(name, 1, 1))
    return found


def _problem(space: SpaceSpec, recipe: Recipe, study: Study) -> Problem:
    from searchspace.designs import members
    from searchspace.plain import imported_family, plain_family
    from searchspace.quantization.offers import why_slow
    from searchspace.quantization.sensitivity import first_architectures
    from searchspace.sampling import by_size, even_steps
    from searchspace.validity import violations, why_invalid

    # a format that is slower than bf16 pays by its bytes alone
    bytes_count = bool(recipe.bounds.keys() & BYTES) or any(o.name in BYTES for o in study.objectives)
    is_timed = any(o.source == "predicted" for o in study.objectives)
    fast_only = is_timed and not bytes_count and study.runtime == EAGER

    def why(arch: ArchSpec) -> str | None:
        reason = why_invalid(arch)
        if reason is None and fast_only:
            reason = why_slow(arch, recipe.workload, study.settings.device)
        if reason is not None:
            return reason
        missed = violations(arch, space.constraints, recipe.workload)
        return f"misses the bound on {', '.join(missed)}" if missed else None

    encoding = Encoding(space)
    # A study that was begun before there was a plain family goes on without, and draws as it did.
    is_old = study.settings.plain is None
    num_plain = study.settings.plain or 0
    is_narrow = bool(recipe.model or space.constraints)  # sizes that are seldom drawn
    steps = even_steps(encoding, recipe.workload, lambda arch: why(arch) is None) if is_narrow else ()
    formats = map(encoding.encode, first_architectures(encoding))
    origins = imported_family(encoding, why, num_plain) if recipe.model else {}
    plain = tuple(origins) if recipe.model else plain_family(encoding, why, recipe.workload, num_plain)
    return Problem(
        encoding,
        len(study.objectives),
        study.seed,
        why,
        tuple(recipe.ladder),
        climbing=frozenset(j for j, o in enumerate(study.objectives) if o.source in CLIMBING),
        plain=plain,
        origins=origins,
        designs=members(encoding, why) if study.settings.designs else {},
        useless=_useless(study),
        first=tuple(dict.fromkeys((*formats, *(() if is_old else steps)))),
        draw=None if is_old else by_size(encoding, recipe.workload, space.constraints),
    )


def _useless(study: Study) -> dict[int, Callable[[float], float]]:
    """By index of objective, the loss at the square of the study's floor, a share of the imported model's quality."""
    share, quality = floor_share(study) ** 2, quality_of(study.objectives)
    if not share or quality is None:
        return {}
    j = study.objectives.index(quality)
    return {j: lambda loss: quality.loss(share_of(share, quality.loss(loss), quality))}


def _searcher(
    store: Store, study: Study, problem: Problem, recipe: Recipe, profile: Path | None = None
) -> Searcher:
    """The study's searcher; `guided` also gets the results of a warm start and the losses that need no evaluation."""
    if study.searcher != "guided":
        return make_searcher(study.searcher, problem)
    from nas.evaluation.costs import exact_losses, training_price
    from nas.searchers.guided.pace import pace
    from nas.searchers.guided_searcher import GuidedSearcher

    exact = exact_losses(study.objectives, recipe, problem.encoding.space.name, profile)
    predicted = [exact[j] for j, o in enumerate(study.objectives) if o.source == "predicted" and j in exact]
    earlier = results(store, study, problem.encoding)
    known = {told.genome for told in earlier}
    opening = {n: tuple(g for g in getattr(problem, n) if g not in known) for n in ("plain", "first")}
    new = {name: genome for name, genome in problem.designs.items() if genome not in known}
    problem = replace(problem, plain=opening["plain"], first=opening["first"], designs=new)
    # What runs for longer is trained for longer, but the step of a decoder says nothing of training on long texts.
    if recipe.workload.phase != "decode" or recipe.model:
        return GuidedSearcher(problem, earlier, exact, next(iter(predicted), None))
    price = training_price(recipe)
    return GuidedSearcher(replace(problem, pace=pace(problem, price)), earlier, exact, price)


def _result(
    store: Store, study: Study, trials: list[Trial] | None = None, best: list[Trial] | None = None
) -> Result:
    """The study's current result; `best`, if given, are the trials of the front, the only ones with architectures."""
    trials = store.trials(study) if trials is None else trials
    found = front(trials if best is None else best, study.objectives)
    return Result(study, trials, found, latencies=latencies(store, study, found))
