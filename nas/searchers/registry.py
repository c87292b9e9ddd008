"""The searchers by name, with their help texts; a searcher's libraries are imported when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from searchspace.spec.reading import unknown

if TYPE_CHECKING:
    from nas.searchers.base import Problem, Searcher
    from searchspace.spec.genome import Encoding

MAX_GP_DECISIONS = 20  # with 60 decisions a proposal takes 45 s


@dataclass(frozen=True)
class Entry:
    """`constructor` in `module` is called with the problem and, if it has several variants, with `variant`.

    The searcher needs at least `min_objectives`, at most `max_decisions` with more than one value, and `package` if
    given; `instead` names an alternative.
    """

    module: str
    constructor: str
    about: str
    variant: str = ""
    min_objectives: int = 1
    max_decisions: int | None = None
    package: str = ""
    instead: str = ""


def _own(module: str, constructor: str, about: str) -> Entry:
    return Entry(f"nas.searchers.{module}", constructor, about)


def _optuna(variant: str, about: str, **limits: Any) -> Entry:
    return Entry("nas.searchers.optuna_searcher", "OptunaSearcher", f"{about} (Optuna)", variant, **limits)


def _pymoo(variant: str, about: str, **limits: Any) -> Entry:
    return Entry("nas.searchers.pymoo_searcher", "PymooSearcher", f"{about} (pymoo)", variant, **limits)


SEARCHERS = {
    "guided": _own(
        "guided_searcher",
        "GuidedSearcher",
        "proposes by predictors and expected hypervolume improvement",
    ),
    "random": _own("random_searcher", "RandomSearcher", "random decisions, uniform in size; the baseline"),
    "nsga2": _own(
        "nsga2", "Nsga2Searcher", "NSGA-II, one trial at a time: selects by dominance, then crowding"
    ),
    "evolution": _own(
        "evolution",
        "EvolutionSearcher",
        "regularized evolution: mutates winners of tournaments, removes the oldest",
    ),
    "local": _own(
        "local_search", "LocalSearcher", "local search: single changes to members of the current front"
    ),
    "generative": _own(
        "generative",
        "GenerativeSearcher",
        "constrained generation: quality per cost, under bounds that tighten round by round",
    ),
    "shrink": _own(
        "shrink", "ShrinkSearcher", "evolution in a space that shrinks to the decisions that matter"
    ),
    "halving": _own(
        "halving",
        "HalvingSearcher",
        "successive halving: cheap results select networks for better measurements",
    ),
    "tpe": _optuna("tpe", "tree-structured Parzen estimator over all decisions jointly"),
    "optuna-nsga2": _optuna("optuna-nsga2", "NSGA-II with generations of 16"),
    "optuna-nsga3": _optuna("optuna-nsga3", "NSGA-III with generations of 16"),
    "gp": _optuna(
        "gp",
        f"Gaussian processes, for spaces of at most {MAX_GP_DECISIONS} decisions",
        max_decisions=MAX_GP_DECISIONS,
        instead="tpe",
    ),
    "nsga3": _pymoo("nsga3", "NSGA-III: spread along reference directions, for three or more objectives"),
    "unsga3": _pymoo("unsga3", "U-NSGA-III: NSGA-III with parents that won a tournament"),
    "age2": _pymoo(
        "age2",
        "AGE-MOEA2: spread along the estimated shape of the front; needs numba",
        package="numba",
        instead="nsga3",
    ),
    "smsemoa": _pymoo(
        "smsemoa",
        "SMS-EMOA: removes the member with the least hypervolume; slow beyond three objectives",
        min_objectives=2,
        instead="evolution or tpe",
    ),
    "rvea": _pymoo(
        "rvea",
        "RVEA: reference vectors that follow the front, for two or more objectives",
        min_objectives=2,
        instead="evolution or tpe",
    ),
}


def why_not(name: str, encoding: Encoding, num_objectives: int) -> str | None:
    """A phrase on why the searcher can't be used for such a problem; None if it can. Does not import the searcher."""
    entry = SEARCHERS[name]
    if entry.package and find_spec(entry.package) is None:
        return f"needs {entry.package}, which is not installed: pip install {entry.package}"
    if num_objectives < entry.min_objectives:
        return f"needs at least {entry.min_objectives} objectives, got {num_objectives}"
    decisions = sum(len(v.values) > 1 for v in encoding.variables)
    if entry.max_decisions is not None and decisions > entry.max_decisions:
        return (
            f"suits spaces of at most {entry.max_decisions} decisions, space {encoding.space.name} has {decisions}: "
            f"a proposal would take minutes"
        )
    return None


def make_searcher(name: str, problem: Problem) -> Searcher:
    """The searcher with this name. Raises UsageError for an unknown one, and if it does not suit the problem."""
    if name not in SEARCHERS:
        raise UsageError(f"--searcher: {unknown(name, SEARCHERS)}")
    entry = SEARCHERS[name]
    if (reason := why_not(name, problem.encoding, problem.num_objectives)) is not None:
        raise UsageError(f"--searcher {name} {reason}; take {entry.instead}")
    constructor = getattr(import_module(entry.module), entry.constructor)
    searcher: Searcher = constructor(problem, entry.variant) if entry.variant else constructor(problem)
    return searcher
