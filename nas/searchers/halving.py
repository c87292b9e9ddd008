"""Successive halving over fidelities: cheap results select the architectures for more expensive evaluations.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), 2020. A rung holds the results of one
fidelity; while fewer than 1 / REDUCTION of a rung were promoted, the best of the others is promoted to the next rung,
starting with the highest rung. (ASHA promotes whatever enters the best share, which exceeds that share as newcomers
get better.) If none is to be promoted, regularized evolution on the results of the lowest rung proposes a new
architecture. With the lag rule, a proposal is a function of the results told and the earlier promotions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from nas.searchers.base import Observation, Problem, Proposal, Searcher
from nas.searchers.evolution import EvolutionSearcher
from nas.searchers.ranking import positions
from searchspace.spec.genome import Genome
from studies.records import TrialState

REDUCTION = 4
_RUNG = 8  # random stream, separate from that of `ask`


class HalvingSearcher(Searcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._rungs = (*problem.fidelities, "")  # the last one is the study's own fidelity
        self._results: dict[str, list[Observation]] = {rung: [] for rung in self._rungs}
        self._reached: dict[str, set[str]] = {rung: set() for rung in self._rungs}  # ids of architectures
        self._ids: list[str] = []  # by trial number
        self._newcomers = EvolutionSearcher(problem)
        self._num_told = 0

    def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
        proposal = self._promotion() or replace(self._newcomers.ask(number), fidelity=self._rungs[0])
        self._note(proposal.arch.id, proposal.fidelity)
        return proposal

    def register(self, arch_id: str, arch: Mapping[str, Any], fidelity: str = "", origin: str = "") -> None:
        if fidelity == self._rungs[0]:
            self._newcomers.register(arch_id, arch)
        self._note(arch_id, fidelity)

    def tell(self, trial: Observation) -> None:
        self._num_told = trial.number + 1
        if trial.state == TrialState.PRUNED:  # complete with respect to its rung
            trial = replace(trial, state=TrialState.COMPLETE)
        if trial.is_ranked:
            self._results[trial.fidelity].append(trial)
        if trial.fidelity == self._rungs[0]:
            self._newcomers.tell(trial)

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        return self._newcomers.propose(number, rng)

    def state(self) -> dict[str, Any]:
        return {"version": 1, "num_told": self._num_told, "rungs": [len(r) for r in self._results.values()]}

    def _note(self, arch_id: str, fidelity: str) -> None:
        self._reached[fidelity].add(arch_id)
        self._ids.append(arch_id)

    def _promotion(self) -> Proposal | None:
        for lower, higher in reversed(list(pairwise(self._rungs))):
            results, reached = self._results[lower], self._reached[higher]
            if len(reached) < len(results) // REDUCTION:
                lot = np.random.default_rng([self.problem.seed, len(results), _RUNG])
                order = np.argsort(positions(results, lot)).tolist()
                best = next(results[i] for i in order if self._ids[results[i].number] not in reached)
                return Proposal(self.encoding.decode(best.genome), "promoted", (best.number,), higher)
        return None
