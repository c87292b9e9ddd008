"""Predictor-guided search: evolution over predictions proposes, the expected gain of the front decides.

After Cummings et al., "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities"
(LINAS), 2022, with Gaussian processes in place of point predictions, so that a batch is chosen by the hypervolume
it is expected to add. A batch is a function of its seed, of the results told before it and of what was proposed
but not yet told; it is computed when its first member is asked for, and again wherever a study is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from nas.searchers.base import Problem, Proposal, Searcher, Told
from nas.searchers.guided.batch import design, improve
from nas.searchers.guided.features import Features
from nas.searchers.guided.model import Modeller
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Genome

FIRST = 10  # members of the first batch
SHORT, LONG = 5, 10  # members of a batch: short ones until LATER, where each result still says much
LATER = 100
# A batch is at least this part of what was proposed, so that long studies stay cheap, and a quarter to a half of what
# is proposed but not yet told, so that a driver keeps up with many workers.
SHARE, FEW_PENDING = 25, 64
_BATCH = 1  # stream of randomness beside those of `ask`


class GuidedSearcher(Searcher):
    """`earlier`: results of other studies on the same space with the same objectives: learnt from, not repeated.

    `exact`: losses that can be computed without an evaluation, by index of objective; they are not predicted
    where a batch is chosen.
    """

    def __init__(
        self,
        problem: Problem,
        earlier: Sequence[Told] = (),
        exact: Mapping[int, Callable[[ArchSpec], float]] = MappingProxyType({}),
    ) -> None:
        super().__init__(problem)
        decode = self.encoding.decode
        self._exact = {j: lambda genome, loss=loss: loss(decode(genome)) for j, loss in exact.items()}
        self._features = Features(self.encoding)
        self._modeller = Modeller(self._features)
        self._earlier = tuple(earlier)
        self._told: list[Told] = []
        self._entries: list[Genome | Mapping[str, Any]] = []  # proposed, by number
        self._batch: tuple[int, list[Genome]] = (-1, [])

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        # Before anything is told the lag is not known; then every batch so far began below it, and it makes no
        # difference how far.
        start, end = batch_around(number, number - len(self._told))
        if self._batch[0] != start:
            known_then = max(0, len(self._told) - (number - start))  # when the first member was asked for
            # One thread: sums are the same to the last bit everywhere, and threads that wait for one another would
            # take the processor from whoever else drives or evaluates here.
            with ThreadpoolController().limit(limits=1, user_api="blas"):
                self._batch = start, self._choose(start, end - start, known_then)
        batch = self._batch[1]
        if number - start >= len(batch):
            return self.random(rng), "random", ()
        return batch[number - start], "guided", ()

    def ask(self, number: int) -> Proposal:
        proposal = super().ask(number)
        self._entries.append(self.encoding.encode(proposal.arch))
        return proposal

    def register(self, arch_id: str, arch: Mapping[str, Any], fidelity: str = "") -> None:
        super().register(arch_id, arch, fidelity)
        self._entries.append(arch)

    def tell(self, trial: Told) -> None:
        super().tell(trial)
        self._told.append(trial)
        self._entries[trial.number] = trial.genome

    def state(self) -> dict[str, Any]:
        return {"version": 1, "num_told": len(self._told)}

    def _choose(self, start: int, count: int, num_told: int) -> list[Genome]:
        rng = np.random.default_rng([self.problem.seed, start, _BATCH])
        told = [*self._earlier, *self._told[:num_told]]
        pending = [self._genome(number) for number in range(num_told, start)]
        model = self._modeller.fit(told)
        known = np.array([*(t.genome for t in told), *pending], dtype=np.int64)
        known = known.reshape(-1, len(self.encoding))
        if model is None:
            return design(self._features, known, count, self._is_valid, rng)
        return improve(model, told, known[len(told) :], count, self._is_valid, rng, self._exact)

    def _genome(self, number: int) -> Genome:
        entry = self._entries[number]
        return entry if isinstance(entry, tuple) else self.encoding.encode(ArchSpec.from_json(entry))

    def _is_valid(self, genome: Genome) -> bool:
        return self.problem.why_invalid(self.encoding.decode(genome)) is None


@lru_cache
def batch_around(number: int, lag: int) -> tuple[int, int]:
    """The first number of the batch that holds `number`, and the one after its last."""
    start, end = 0, FIRST
    while end <= number:
        length = SHORT if end < LATER else LONG
        pending = min(end, lag)
        start, end = end, end + max(length, end // SHARE, pending // 4, (pending - FEW_PENDING // 2) // 2)
    return start, end
