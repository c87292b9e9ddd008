"""The searchers by name, with the sentence that users read; the library behind one is loaded when it is asked for."""

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

MAX_GP_DECISIONS = 20  # at 60 a proposal takes 45 s


@dataclass(frozen=True)
class Entry:
    """`constructor` in `module` is called with the problem and, where it stands for several, `variant`.

    It can work with at least `min_objectives`, at most `max_decisions` of more than one value, and the `package` where
    one is named; `instead` suits where it does not.
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
        "predictors propose, the hypervolume expected to be gained decides",
    ),
    "random": _own(
        "random_searcher", "RandomSearcher", "every decision by chance, sizes evenly; the baseline"
    ),
    "nsga2": _own(
        "nsga2", "Nsga2Searcher", "NSGA-II, one trial at a time: dominance, then the least crowded"
    ),
    "evolution": _own(
        "evolution",
        "EvolutionSearcher",
        "regularized evolution: the best of a few are mutated, the oldest die",
    ),
    "local": _own(
        "local_search", "LocalSearcher", "local search: single changes to the members of the front so far"
    ),
    "generative": _own(
        "generative",
        "GenerativeSearcher",
        "constrained generation: quality for its cost, under bounds that tighten round by round",
    ),
    "shrink": _own(
        "shrink", "ShrinkSearcher", "evolution in a space that shrinks to the decisions that matter"
    ),
    "halving": _own(
        "halving", "HalvingSearcher", "successive halving: cheap judgements decide who gets a dearer one"
    ),
    "tpe": _optuna("tpe", "tree-structured Parzen estimator over all decisions jointly"),
    "optuna-nsga2": _optuna("optuna-nsga2", "NSGA-II by generations of 16"),
    "optuna-nsga3": _optuna("optuna-nsga3", "NSGA-III by generations of 16"),
    "gp": _optuna(
        "gp",
        f"Gaussian processes, for spaces of at most {MAX_GP_DECISIONS} decisions",
        max_decisions=MAX_GP_DECISIONS,
        instead="tpe",
    ),
    "nsga3": _pymoo("nsga3", "NSGA-III: spread along reference directions, for three objectives and more"),
    "unsga3": _pymoo("unsga3", "U-NSGA-III: NSGA-III with parents that won a tournament"),
    "age2": _pymoo(
        "age2",
        "AGE-MOEA2: spread along the estimated shape of the front; needs numba",
        package="numba",
        instead="nsga3",
    ),
    "smsemoa": _pymoo(
        "smsemoa",
        "SMS-EMOA: whoever adds least hypervolume leaves; slow beyond three objectives",
        min_objectives=2,
        instead="evolution or tpe",
    ),
    "rvea": _pymoo(
        "rvea",
        "RVEA: reference vectors that follow the front, for two objectives and more",
        min_objectives=2,
        instead="evolution or tpe",
    ),
}


def why_not(name: str, encoding: Encoding, num_objectives: int) -> str | None:
    """Why the searcher can't work for such a problem, None where it can. Loads none."""
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
    """Raises UsageError for an unknown name, and for a searcher that does not suit the problem."""
    if name not in SEARCHERS:
        raise UsageError(f"--searcher: {unknown(name, SEARCHERS)}")
    entry = SEARCHERS[name]
    if (reason := why_not(name, problem.encoding, problem.num_objectives)) is not None:
        raise UsageError(f"--searcher {name} {reason}; take {entry.instead}")
    constructor = getattr(import_module(entry.module), entry.constructor)
    searcher: Searcher = constructor(problem, entry.variant) if entry.variant else constructor(problem)
    return searcher
