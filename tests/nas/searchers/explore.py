"""A searcher driven by hand on the toy space: ask, judge at once, tell as late as the lag rule says."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from nas.searchers.base import Observation, Problem, Searcher
from nas.searchers.registry import SEARCHERS, make_searcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies import pareto
from tests.nas.engine import toy

REFERENCE = (4.0, 300.0)
SLOW = ("gp", "guided")  # those that fit models for each proposal
OPTUNA = ("tpe", "optuna-nsga2", "optuna-nsga3")
HERE = [n for n in SEARCHERS if n != "age2" or find_spec("numba")]


def cases(*slow: str) -> list[ParameterSet]:
    """Every searcher that runs here as a parameter; those named and the dear ones marked slow."""
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in (*SLOW, *slow))) for n in HERE]


GP_TRIALS = 31  # with a lag of 8, three are proposed by its model: each takes seconds


def trials_for(name: str, usual: int) -> int:
    """`usual`, or as few as `gp` takes until it has proposed by its model."""
    return GP_TRIALS if name == "gp" else usual


def num_blocks_for(name: str) -> int:
    """So few for `gp` that it takes the toy space."""
    return 2 if name == "gp" else 4


def accept(arch: ArchSpec) -> None:
    return None


def make(
    name: str,
    seed: int = 0,
    num_blocks: int | None = None,
    why_invalid: Callable[[ArchSpec], str | None] = accept,
    num_objectives: int = 2,
) -> Searcher:
    space = toy.space(num_blocks or num_blocks_for(name))
    return make_searcher(name, Problem(Encoding(space), num_objectives, seed, why_invalid))


def losses(arch: ArchSpec, num_objectives: int = 2) -> list[float]:
    """Of the toy; a third objective counts what the blocks hold."""
    values = toy.judge(arch)
    held = sum(b.mixer.get("num_heads", 0) + b.ffn.get("ratio", 0) for b in arch.blocks if b.is_active)
    return [values["loss"], values["cost"], float(held * arch.d_model)][:num_objectives]


def result(searcher: Searcher, number: int, arch: ArchSpec) -> Observation:
    found = np.array(losses(arch, searcher.problem.num_objectives))
    return Observation(number, searcher.encoding.encode(arch), found, 0.0, "complete")


def explore(searcher: Searcher, num_trials: int, lag: int = 8) -> list[ArchSpec]:
    archs: list[ArchSpec] = []
    for n in range(num_trials):
        if n > lag:
            searcher.tell(result(searcher, n - lag - 1, archs[n - lag - 1]))
        archs.append(searcher.ask(n).arch)
    return archs


def hypervolume(archs: list[ArchSpec]) -> float:
    return pareto.hypervolume([losses(a) for a in archs], REFERENCE)
