"""Choose the networks to evaluate at a higher rung: those that may extend the front of fully evaluated networks.

"Found" networks are those of the search. Plain networks serve as the baseline and cost the most, since they are many
and large: a few that span the plain family's own front are evaluated in full, then one per several found networks.
Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation
from nas.searchers.guided.evidence import Evidence
from nas.searchers.guided.improvement import choose_batch
from nas.searchers.guided.model import Model
from searchspace.spec.genome import Genome
from studies.fidelity import SHARES
from studies.pareto import Points
from studies.records import TrialState

Climb = tuple[Observation, str]  # a network's result at its highest rung, and the rung of its next evaluation
MARGIN = 0.1  # the reference point exceeds the worst result by this share of each objective's range
REDUCTION = 2  # one in two of the networks that reached a rung is promoted to the next
PLAIN_IN_FULL = 5  # plain networks evaluated in full regardless of the number of found ones;
PLAIN_SHARE = 8  # beyond these, one per this many found networks


def climb(
    evidence: Evidence,
    model: Model,
    pending: Sequence[tuple[Genome, str]],
    rungs: Sequence[str],
    plain: Collection[Genome],
    count: int,
    worst: float | NDArray[np.float64] = np.inf,
    prices: NDArray[np.float64] | None = None,
) -> list[Climb]:
    """Up to `count` networks to promote, each with its next rung. `pending` was proposed but not yet told.

    `prices` [n] are relative costs of each whole training; networks are ranked by expected hypervolume improvement per
    remaining cost. One with a loss beyond `worst` [M] improves nothing.

    The best found network goes straight to the top rung, which yields full results early and shows how rungs relate.
    Plain ones follow, at most half of `count` and costing no more than found ones. The rest are found networks that go
    to the next rung, from the highest rung down, one in REDUCTION of those that reached it.
    """
    rest = np.array([1 - _done(int(rung), rungs)[-1] for rung in evidence.rungs])
    state = _State.of(
        evidence, model, pending, rungs, plain, worst, None if prices is None else prices * rest, prices
    )
    in_full = state.choose(~state.is_plain & (evidence.rungs < state.top), 1)
    in_full += state.affordable(state.plain_ones(max(0, count // 2)), in_full)
    kept = list(dict.fromkeys([*in_full, *state.halved(~state.is_plain)]))[:count]
    return [
        (evidence.rows[i], rungs[state.top if i in in_full else int(evidence.rungs[i]) + 1]) for i in kept
    ]


def finish(
    evidence: Evidence,
    model: Model | None,
    pending: Sequence[tuple[Genome, str]],
    rungs: Sequence[str],
    plain: Collection[Genome],
    seconds_left: float,
    worst: float | NDArray[np.float64] = np.inf,
) -> Observation | None:
    """The next network to evaluate in full, as its result at its highest rung; None if none is done in `seconds_left`.

    It has the largest expected hypervolume improvement per second. Found and plain networks alternate, up to
    PLAIN_IN_FULL plain ones, as long as these take no more time than found ones. `model` is None with too few results;
    then the results themselves are compared.
    """
    rest = np.array([_rest(t, int(at), rungs) for t, at in zip(evidence.rows, evidence.rungs, strict=True)])
    in_time, below = rest <= seconds_left, evidence.rungs < len(rungs) - 1
    is_timed = np.isfinite(seconds_left) and bool((rest[below] > 0).all())  # else costs are taken as equal
    whole = np.array(
        [
            _whole(t, int(at), rungs) or t.seconds or 0.0
            for t, at in zip(evidence.rows, evidence.rungs, strict=True)
        ]
    )
    state = _State.of(evidence, model, pending, rungs, plain, worst, rest if is_timed else None, whole)
    arriving = state.reached == state.top
    num_plain, num_found = (int((arriving & kind).sum()) for kind in (state.is_plain, ~state.is_plain))
    chosen: list[int] = []
    if num_plain < min(PLAIN_IN_FULL, num_found):
        chosen = state.affordable(state.choose(state.is_plain & below & in_time, 1, state.is_plain))
    for kind in (~state.is_plain, state.is_plain):
        chosen = chosen or state.choose(kind & below & in_time, 1)
    return evidence.rows[chosen[0]] if chosen else None


def typical_training(evidence: Evidence, rungs: Sequence[str], plain: Collection[Genome] = ()) -> float:
    """Seconds of a whole training, the median over networks below the top rung; 0 if unknown.

    Plain networks count only where there are no others.
    """
    known = [
        (row.genome in plain, _whole(row, int(at), rungs))
        for row, at in zip(evidence.rows, evidence.rungs, strict=True)
    ]
    found = [seconds for is_plain, seconds in known if seconds and not is_plain]
    return float(np.median(found or [seconds for _, seconds in known if seconds] or [0.0]))


def _rest(row: Observation, rung: int, rungs: Sequence[str]) -> float:
    """Seconds that remain of the training of a network evaluated at `rung`; 0 if unknown."""
    return _whole(row, rung, rungs) * (1 - _done(rung, rungs)[-1])


def _whole(row: Observation, rung: int, rungs: Sequence[str]) -> float:
    """Seconds of the whole training, extrapolated from its last part; 0 if unknown or at the top rung."""
    before, done = _done(rung, rungs)[-2:]
    if row.seconds is None or rung == len(rungs) - 1 or done <= before:
        return 0.0
    return row.seconds / (done - before)


def _done(rung: int, rungs: Sequence[str]) -> list[float]:
    """The shares of training done at the start and at each rung up to `rung`; the top rung counts as 0."""
    return [0.0, *({"supernet": 0.0, **SHARES}.get(name, 0.0) for name in rungs[: rung + 1])]


@dataclass(frozen=True)
class _State:
    """`rungs` [n]: the highest rung with a result of each network; `reached` [n]: including pending promotions.

    `price` [n]: cost of the remaining training, None if equal for all; `whole` [n]: cost of the whole training.
    `is_open` [n]: whether a network may be promoted. means, stds: [n, M]; reference: [M].
    """

    means: Points
    stds: Points
    reference: NDArray[np.float64]
    rungs: NDArray[np.int64]
    reached: NDArray[np.int64]
    is_open: NDArray[np.bool_]
    is_plain: NDArray[np.bool_]
    price: NDArray[np.float64] | None
    whole: NDArray[np.float64] | None
    top: int

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        model: Model | None,
        pending: Sequence[tuple[Genome, str]],
        rungs: Sequence[str],
        plain: Collection[Genome],
        worst: float | NDArray[np.float64],
        price: NDArray[np.float64] | None,
        whole: NDArray[np.float64] | None,
    ) -> _State:
        rows, top = evidence.rows, len(rungs) - 1
        reached = evidence.rungs.copy()
        index = {t.genome: i for i, t in enumerate(rows)}
        for genome, fidelity in pending:
            if genome in index:
                reached[index[genome]] = max(reached[index[genome]], rungs.index(fidelity))
        losses = np.array([t.losses for t in rows])
        if model is None:
            means, stds, spans = losses.copy(), evidence.stds.copy(), np.ptp(losses, axis=0)
        else:
            described = model.features(np.array([t.genome for t in rows]))
            means, stds = model.of_judged(described, losses, evidence.stds)
            spans = model.spans
        is_exact = evidence.rungs == top
        means[is_exact], stds[is_exact] = losses[is_exact], 0.0
        return cls(
            means,
            stds,
            np.minimum(losses.max(axis=0) + MARGIN * np.maximum(spans, 1e-12), worst),
            evidence.rungs,
            reached,
            np.array([t.state == TrialState.COMPLETE and t.violation == 0 for t in rows])
            & (reached == evidence.rungs),
            np.array([t.genome in plain for t in rows], dtype=bool),
            price,
            whole,
            top,
        )

    def choose(
        self, among: NDArray[np.bool_], count: int, known: NDArray[np.bool_] | None = None
    ) -> list[int]:
        """Indices of up to `count` open networks with the largest expected improvement per price.

        The front is that of the networks that are or will be evaluated in full, only those in `known` [n] if given.
        """
        candidates = np.flatnonzero(among & self.is_open)
        if not len(candidates) or count < 1:
            return []
        in_full = self.reached == self.top
        front = self.means[in_full if known is None else in_full & known]
        means, stds = self.means[candidates], self.stds[candidates]
        weights = np.ones(len(candidates)) if self.price is None else 1 / self.price[candidates]
        picked = choose_batch(means, stds, weights, front, self.reference, count)
        return [int(candidates[i]) for i in picked]

    def plain_ones(self, most: int) -> list[int]:
        """Up to `most` plain networks with the largest expected improvement of the plain family's front.

        In all PLAIN_IN_FULL, or one per PLAIN_SHARE found networks if that is more, are evaluated in full.
        """
        found, plain = (
            int((kind & (self.reached == self.top)).sum()) for kind in (~self.is_plain, self.is_plain)
        )
        room = max(PLAIN_IN_FULL, found // PLAIN_SHARE) - plain
        return self.choose(self.is_plain & (self.rungs < self.top), min(room, most), self.is_plain)

    def affordable(self, chosen: Sequence[int], others: Sequence[int] = ()) -> list[int]:
        """The leading plain networks of `chosen` whose training keeps the plain total within that of found networks.

        Totals are over networks that are or will be evaluated in full, and `others`. The first plain one is exempt.
        """
        if self.whole is None:
            return list(chosen)
        arriving = self.reached == self.top
        found = self.whole[arriving & ~self.is_plain].sum() + self.whole[list(others)].sum()
        spent, kept = self.whole[arriving & self.is_plain].sum(), list[int]()
        for i in chosen:
            is_first = not kept and not (arriving & self.is_plain).any()
            if not is_first and spent + self.whole[i] > found:
                break
            kept.append(i)
            spent += self.whole[i]
        return kept

    def halved(self, among: NDArray[np.bool_]) -> list[int]:
        """Networks of `among` [n] to promote by one rung, highest first, so that one in REDUCTION of each rung is."""
        found: list[int] = []
        for lower in range(self.top - 1, -1, -1):
            arrived = int((among & (self.rungs >= lower)).sum())
            room = arrived // REDUCTION - int((among & (self.reached > lower)).sum())
            found += self.choose(among & (self.rungs == lower), room)
        return found
