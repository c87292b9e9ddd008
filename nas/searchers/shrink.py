"""Shrinks the space to its important decisions, with evolution inside it.

Liu et al., "Neural Architecture Search on Efficient Transformers and Beyond", 2022, after Hu et al., "RankNAS",
2021: a pairwise ranker for each objective learns which of two architectures is better,

    minimize  log(1 + exp(s_worse - s_better))  over pairs        s: sum of the weights of the chosen values

Its weights tell which decisions matter; the others are frozen at their best-ranked values. The ranker is fitted again,
to all results, whenever their number has doubled, so that a decision frozen too early can become free again. A linear
ranker replaces their boosted trees: it needs no library, and its weights are the importance.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation, Problem
from nas.searchers.evolution import EvolutionSearcher
from searchspace.spec.genome import Genomes
from studies.pareto import Points

FIRST_FIT = 64  # results before the first fit, from evolution in the whole space
MAX_FITTED = 1024  # the latest results that a ranker is fitted to
KEPT_IMPORTANCE = 0.8  # share of the total importance that decisions which stay free have together
NUM_PAIRS = 4096
NUM_STEPS, STEP_SIZE, DECAY = 200, 0.5, 1e-3
_PAIRS = 7  # random stream, separate from that of `ask`


class ShrinkSearcher(EvolutionSearcher):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._results: deque[Observation] = deque(maxlen=MAX_FITTED)
        self._num_results, self._next_fit = 0, FIRST_FIT
        self._frozen: dict[int, int] = {}  # decision -> value

    def tell(self, trial: Observation) -> None:
        super().tell(trial)
        if not trial.is_ranked or np.isnan(trial.losses).any():
            return
        self._results.append(trial)
        self._num_results += 1
        if self._num_results == self._next_fit:
            self._next_fit *= 2
            self._frozen = self._freeze(np.random.default_rng([self.problem.seed, trial.number, _PAIRS]))

    def mutate(self, genomes: Genomes, rate: float | None, rng: np.random.Generator) -> Genomes:
        """Mutations [n, V] of genomes [n, V] with frozen decisions set; a parent may predate the freezing."""
        mutants = super().mutate(genomes, rate, rng)
        for decision, value in self._frozen.items():
            mutants[:, decision] = value
        return self.encoding.canonical(mutants)

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "frozen": {self.encoding.variables[i].name: v for i, v in self._frozen.items()}
        }

    def _freeze(self, rng: np.random.Generator) -> dict[int, int]:
        genomes = np.array([t.genome for t in self._results])
        losses = np.array([t.losses for t in self._results])
        importance = np.zeros(len(self.encoding))
        scores = np.zeros((len(self.encoding), int(self.encoding.num_values.max())))
        for column in losses.T:
            fitted = self._rank(genomes, column, rng)
            spread = self._spread(genomes, fitted)
            total = max(float(spread.sum()), 1e-12)
            importance += spread / total
            scores += fitted / total
        order = np.argsort(-importance, kind="stable")
        before = np.cumsum(importance[order]) - importance[order]
        unimportant = order[before >= KEPT_IMPORTANCE * importance.sum()]
        return {
            int(i): int(np.argmax(scores[i, : self.encoding.num_values[i]]))
            for i in sorted(unimportant)
            if self.encoding.num_values[i] > 1
        }

    def _rank(self, genomes: Genomes, losses: Points, rng: np.random.Generator) -> Points:
        """The ranker's weights [V, most values] of each decision's values, higher is better.

        genomes: [n, V]; losses: [n].
        """
        used = self.encoding.in_use(genomes)
        shape = len(self.encoding), int(self.encoding.num_values.max())
        features = np.zeros((len(genomes), *shape))
        rows, columns = np.nonzero(used)
        features[rows, columns, genomes[rows, columns]] = 1.0
        flat = features.reshape(len(genomes), -1)
        pairs = rng.integers(0, len(genomes), size=(NUM_PAIRS, 2))
        better, worse = pairs[losses[pairs[:, 0]] < losses[pairs[:, 1]]].T
        weights = np.zeros(flat.shape[1])
        for _ in range(NUM_STEPS):
            scores = flat @ weights
            wrong = 1 / (1 + np.exp(scores[better] - scores[worse]))
            push = np.bincount(better, wrong, len(genomes)) - np.bincount(worse, wrong, len(genomes))
            weights += STEP_SIZE * (flat.T @ push / max(1, len(better)) - DECAY * weights)
        return np.asarray(weights.reshape(shape))

    def _spread(self, genomes: Genomes, weights: Points) -> NDArray[np.float64]:
        """The mean absolute deviation [V] of each decision's weights over genomes [n, V] that use it."""
        used = self.encoding.in_use(genomes)
        found = weights[np.arange(weights.shape[0]), genomes]  # [n, V]
        count = np.maximum(used.sum(axis=0), 1)
        mean = np.where(used, found, 0.0).sum(axis=0) / count
        return np.asarray(np.where(used, np.abs(found - mean), 0.0).sum(axis=0) / len(genomes))
