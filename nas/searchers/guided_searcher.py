"""Predictor-guided search: evolution over predictions proposes, expected hypervolume improvement selects.

After Cummings et al., "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities"
(LINAS), 2022, with Gaussian processes in place of point predictions, so that a batch is chosen by expected hypervolume
improvement. A batch is a function of its seed, the results told before it and the pending proposals (proposed but not
yet told); it is computed when its first member is asked for, and recomputed when a study is resumed.

In a study with cheaper fidelities (rungs), new networks begin at the cheapest. Each batch evaluates in full the network
with the largest expected improvement of the front of fully evaluated ones, and a few plain networks that span the plain
family's own front; one in two of the others goes to the next rung (successive halving). The estimate of a network
combines its results with a prediction from its features, after Swersky et al., "Freeze-Thaw Bayesian Optimization",
arXiv:1406.3896, with lines between rungs in place of learning curves. When time or trials are nearly over, no new
network is begun; those with the largest expected improvement are evaluated in full.

A network that differs from a trained one only in number formats starts at the trained one's rung, since it shares its
training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from nas.searchers.base import TO_THE_END, NothingInTime, Observation, Problem, Proposal, Searcher
from nas.searchers.guided.batch import design, improve
from nas.searchers.guided.climbing import climb, finish, typical_training
from nas.searchers.guided.evidence import gather
from nas.searchers.guided.features import Features
from nas.searchers.guided.model import Modeller
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Genome
from searchspace.spec.handmade import ORIGINALS
from studies.records import TrialState

FIRST = 10  # size of the first batch
SHORT, LONG = 5, 10  # sizes of later batches: SHORT until trial LATER, while each result is still informative
LATER = 100
# A batch is at least 1 / SHARE of the trials so far, so that long studies stay cheap, and a quarter to a half of the
# pending ones, so that proposing keeps up with many workers.
SHARE, FEW_PENDING = 25, 64
FINISHED = 8  # number of full trainings for which the end of a search's time is reserved
_BATCH = 1  # random stream, separate from that of `ask`


@dataclass(frozen=True)
class _Entry:
    """The proposal of a trial: a genome, or the architecture as JSON if it was registered from an earlier run."""

    proposed: Genome | Mapping[str, Any]
    fidelity: str


@dataclass(frozen=True)
class _Choice:
    """A member of a batch: a new network, or the promotion of that of trial `parent`."""

    genome: Genome
    fidelity: str
    parent: int | None = None


class GuidedSearcher(Searcher):
    """`earlier`: results of other studies on the same space with the same objectives, used as training data.

    `exact`: by index of objective, functions that compute a loss without an evaluation, used in place of predictions
    when a batch is chosen. `price`: approximate cost of training a network, in any unit; nan if unknown.
    """

    def __init__(
        self,
        problem: Problem,
        earlier: Sequence[Observation] = (),
        exact: Mapping[int, Callable[[ArchSpec], float]] = MappingProxyType({}),
        price: Callable[[ArchSpec], float] | None = None,
    ) -> None:
        super().__init__(problem)
        self._price = price
        decode = self.encoding.decode
        self._exact: dict[int, Callable[[Genome], float]] = {
            j: lambda genome, loss=loss: loss(decode(genome))  # type: ignore[misc]
            for j, loss in exact.items()
        }
        self._features = Features(self.encoding)
        self._modeller = Modeller(self._features)
        self._earlier = tuple(t for t in earlier if not t.fidelity)
        self._rungs = (*problem.fidelities, "")
        self._plain = {self.encoding.encode(self.encoding.decode(g)) for g in problem.plain}
        self._told: list[Observation] = []
        # genome without formats -> the highest rung with a result of the network in any formats
        self._formats = np.array([v.is_format for v in self.encoding.variables], dtype=bool)
        self._trained: dict[Genome, int] = {}
        self._entries: list[_Entry] = []  # by number
        self._batch: tuple[int, list[_Choice]] = (-1, [])

    def propose(self, number: int, rng: np.random.Generator) -> tuple[Genome, str, tuple[int, ...]]:
        choice = self._choice(number)
        if choice is None or choice.parent is not None:
            return self.random(rng), "random", ()
        return choice.genome, "guided", ()

    def ask(self, number: int, seconds_left: float | None = None) -> Proposal:
        """See `Searcher.ask`. A proposal may promote an earlier network to a higher rung. Raises NothingInTime if
        `seconds_left` are too few to evaluate a network in full."""
        last = None if seconds_left is None else self._last(number, seconds_left)
        if last is None and seconds_left is not None and seconds_left < self._training_seconds():
            raise NothingInTime(
                f"no further network would be judged in full in the {seconds_left:.0f} s left"
            )
        choice = None if last is not None or self.opened(number) else self._choice(number)
        if last is not None:
            proposal = Proposal(self.encoding.decode(last.genome), TO_THE_END, (last.number,))
            self._num_last += 1
        elif choice is not None and choice.parent is not None:
            arch = self.encoding.decode(choice.genome)
            proposal = Proposal(arch, "promoted", (choice.parent,), choice.fidelity)
        else:
            proposal = replace(super().ask(number), fidelity=self._rungs[0])
        genome = self.encoding.encode(proposal.arch)
        rung = max(self._rungs.index(proposal.fidelity), self._trained.get(self._native(genome), 0))
        self._entries.append(_Entry(genome, self._rungs[rung]))
        return replace(proposal, fidelity=self._rungs[rung])

    def register(self, arch_id: str, arch: Mapping[str, Any], fidelity: str = "", origin: str = "") -> None:
        super().register(arch_id, arch, fidelity, origin)
        self._entries.append(_Entry(arch, fidelity))

    def tell(self, trial: Observation) -> None:
        if trial.state == TrialState.PRUNED:  # complete with respect to its rung
            trial = replace(trial, state=TrialState.COMPLETE)
        super().tell(trial)
        self._told.append(trial)
        if trial.is_ranked and trial.fidelity in self._rungs:
            native, rung = self._native(trial.genome), self._rungs.index(trial.fidelity)
            self._trained[native] = max(rung, self._trained.get(native, 0))
        self._entries[trial.number] = _Entry(trial.genome, trial.fidelity)

    def finishing_seconds(self) -> float:
        return FINISHED * self._training_seconds()

    def state(self) -> dict[str, Any]:
        return {"version": 1, "num_told": len(self._told)}

    def _choice(self, number: int) -> _Choice | None:
        """The batch's member for this trial number; None if the batch is too small."""
        # Before any result is told the lag is unknown; then all batches began within it, and its size does not matter.
        start, end = batch_around(number, number - len(self._told))
        if self._batch[0] != start:
            known_then = max(0, len(self._told) - (number - start))  # when the first member was asked for
            # One thread makes sums reproducible to the last bit, and waiting BLAS threads would take processor time
            # from other searches and evaluations on this machine.
            with ThreadpoolController().limit(limits=1, user_api="blas"):
                self._batch = start, self._choose(start, len(self._free(start, end)), known_then)
        place, batch = len(self._free(start, number)), self._batch[1]
        return batch[place] if place < len(batch) else None

    def _free(self, start: int, end: int) -> list[int]:
        """The trial numbers from `start` to `end` - 1 that are not in the opening."""
        return [number for number in range(start, end) if not self.opened(number)]

    def _choose(self, start: int, count: int, num_told: int) -> list[_Choice]:
        rng = np.random.default_rng([self.problem.seed, start, _BATCH])
        told = [*self._earlier, *self._told[:num_told]]
        pending = self._pending(num_told, start)
        evidence = gather(told, self._rungs, self.problem.climbing) if self.problem.fidelities else None
        rows, stds = (told, None) if evidence is None else (evidence.rows, evidence.stds)
        model = self._modeller.fit(rows, stds)
        known = {t.genome for t in told}
        new = np.array([g for g in dict.fromkeys(g for g, _ in pending) if g not in known], dtype=np.int64)
        new = new.reshape(-1, len(self.encoding))
        if model is None:
            seen = np.array([*(t.genome for t in rows), *new.tolist()], dtype=np.int64)
            seen = seen.reshape(-1, len(self.encoding))
            fresh = design(self._features, seen, count, self._is_within_plain, rng)
            if len(fresh) < count:
                seen = np.vstack([seen, np.array(fresh, dtype=np.int64).reshape(-1, len(self.encoding))])
                fresh += design(self._features, seen, count - len(fresh), self._is_valid, rng)
            return [_Choice(g, self._rungs[0]) for g in fresh]
        worst = self._worst(told)
        again: list[_Choice] = []
        if evidence is not None:
            prices = self._prices([row.genome for row in evidence.rows])
            climbs = climb(evidence, model, pending, self._rungs, self._plain, count, worst, prices)
            again = [_Choice(row.genome, rung, row.number) for row, rung in climbs]
        missing = count - len(again)
        fresh = []
        if missing:
            fresh = improve(model, rows, new, missing, self._is_valid, rng, self._exact, worst)
        return again + [_Choice(g, self._rungs[0]) for g in fresh]

    def _last(self, number: int, seconds_left: float) -> Observation | None:
        """The network to evaluate in full now, as its latest result; None if none can be completed in time."""
        told = [*self._earlier, *self._told]
        if not self.problem.fidelities or not told:
            return None
        evidence = gather(told, self._rungs, self.problem.climbing)
        with ThreadpoolController().limit(limits=1, user_api="blas"):
            model = self._modeller.fit(evidence.rows, evidence.stds)
            pending = self._pending(len(self._told), number)
            rungs, plain = self._rungs, self._plain
            return finish(evidence, model, pending, rungs, plain, seconds_left, self._worst(told))

    def _training_seconds(self) -> float:
        """Seconds of a typical network's whole training; 0 if unknown."""
        told = [*self._earlier, *self._told]
        if not self.problem.fidelities or not told:
            return 0.0
        return typical_training(gather(told, self._rungs, self.problem.climbing), self._rungs, self._plain)

    def _prices(self, genomes: Sequence[Genome]) -> NDArray[np.float64] | None:
        """Training costs [n] of genomes; None if one is unknown."""
        if self._price is None:
            return None
        found = np.array([self._price(self.encoding.decode(genome)) for genome in genomes])
        return found if (found > 0).all() else None

    def _worst(self, told: Sequence[Observation]) -> NDArray[np.float64]:
        """The loss [M] of each objective beyond which a network is useless; inf for no limit."""
        worst = np.full(self.problem.num_objectives, np.inf)
        originals = {genome for genome, kind in self.problem.origins.items() if kind in ORIGINALS}
        for j, limit in self.problem.useless.items():
            known = [float(t.losses[j]) for t in told if t.genome in originals and np.isfinite(t.losses[j])]
            worst[j] = limit(min(known)) if known else np.inf
        return worst

    def _pending(self, num_told: int, number: int) -> list[tuple[Genome, str]]:
        """(genome, fidelity) of the trials `num_told` to `number` - 1, which are proposed but not yet told."""
        return [(self._genome(n), self._entries[n].fidelity) for n in range(num_told, number)]

    def _genome(self, number: int) -> Genome:
        proposed = self._entries[number].proposed
        return proposed if isinstance(proposed, tuple) else self.encoding.encode(ArchSpec.from_json(proposed))

    def _native(self, genome: Genome) -> Genome:
        """The genome with its format decisions set to 0."""
        return tuple(np.where(self._formats, 0, genome).tolist())

    def _is_within_plain(self, genome: Genome) -> bool:
        """Whether it is valid and in no cost exceeds the most expensive plain network; others rarely pay off.

        Costs are the exact losses and the price of training; unknown costs are not compared.
        """
        return self._is_valid(genome) and all(
            not compute(genome) > dearest for compute, dearest in self._dearest_plain
        )

    @cached_property
    def _dearest_plain(self) -> list[tuple[Callable[[Genome], float], float]]:
        """(function that computes a cost, its maximum over plain networks) for each cost."""
        costs = [*self._exact.values()]
        if self._price is not None:
            price, decode = self._price, self.encoding.decode
            costs.append(lambda genome: price(decode(genome)))
        known = [
            [cost for genome in self._plain if np.isfinite(cost := compute(genome))] for compute in costs
        ]
        return [(compute, max(found, default=np.inf)) for compute, found in zip(costs, known, strict=True)]

    def _is_valid(self, genome: Genome) -> bool:
        return self.problem.why_invalid(self.encoding.decode(genome)) is None


@lru_cache
def batch_around(number: int, lag: int) -> tuple[int, int]:
    """(first trial number of the batch that contains `number`, last one + 1); `lag`: number of pending trials."""
    start, end = 0, FIRST
    while end <= number:
        length = SHORT if end < LATER else LONG
        pending = min(end, lag)
        start, end = end, end + max(length, end // SHARE, pending // 4, (pending - FEW_PENDING // 2) // 2)
    return start, end
