"""The searchers by name, with the sentence that users read; the library behind one is loaded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from nas.errors import UsageError

if TYPE_CHECKING:
    from nas.searchers.base import Problem, Searcher


@dataclass(frozen=True)
class Entry:
    """`constructor` in `module` is called with the problem and, where it stands for several, `variant`."""

    module: str
    constructor: str
    about: str
    variant: str = ""


def _own(module: str, constructor: str, about: str) -> Entry:
    return Entry(f"nas.searchers.{module}", constructor, about)


def _optuna(variant: str, about: str) -> Entry:
    return Entry("nas.searchers.optuna_searcher", "OptunaSearcher", f"{about} (Optuna)", variant)


def _pymoo(variant: str, about: str) -> Entry:
    return Entry("nas.searchers.pymoo_searcher", "PymooSearcher", f"{about} (pymoo)", variant)


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
    "gp": _optuna("gp", "Gaussian processes, for spaces of at most 20 decisions"),
    "nsga3": _pymoo("nsga3", "NSGA-III: spread along reference directions, for three objectives and more"),
    "unsga3": _pymoo("unsga3", "U-NSGA-III: NSGA-III with parents that won a tournament"),
    "age2": _pymoo("age2", "AGE-MOEA2: spread along the estimated shape of the front; needs numba"),
    "smsemoa": _pymoo(
        "smsemoa", "SMS-EMOA: whoever adds least hypervolume leaves; slow beyond three objectives"
    ),
    "rvea": _pymoo("rvea", "RVEA: reference vectors that follow the front, for two objectives and more"),
}


def make_searcher(name: str, problem: Problem) -> Searcher:
    """Raises UsageError for an unknown name, and for a searcher that does not suit the problem."""
    if name not in SEARCHERS:
        raise UsageError(f"--searcher {name}: unknown; known: {', '.join(SEARCHERS)}")
    entry = SEARCHERS[name]
    constructor = getattr(import_module(entry.module), entry.constructor)
    searcher: Searcher = constructor(problem, entry.variant) if entry.variant else constructor(problem)
    return searcher
