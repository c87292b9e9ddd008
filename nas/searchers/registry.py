"""The searchers by name; the library behind one is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module

from nas.errors import UsageError
from nas.searchers.base import Problem, Searcher

_SEARCHERS = {
    "random": ("nas.searchers.random_searcher", "RandomSearcher"),
    "tpe": ("nas.searchers.optuna_searcher", "TPESearcher"),
    "nsga2": ("nas.searchers.pymoo_searcher", "NSGA2Searcher"),
}
SEARCHERS = tuple(_SEARCHERS)


def make_searcher(name: str, problem: Problem) -> Searcher:
    if name not in _SEARCHERS:
        raise UsageError(f"unknown searcher {name!r}; known: {', '.join(SEARCHERS)}")
    module, constructor = _SEARCHERS[name]
    searcher: Searcher = getattr(import_module(module), constructor)(problem)
    return searcher
