"""Which networks are judged again, dearer: those that may extend the front of what was judged in full.

The plain networks are there to be compared with, and cost most of all, for they are many and large: a few of them that
span their family's own front are judged in full, and further ones one for several networks found.
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

Climb = tuple[Observation, str]  # the furthest result of a network, and the rung it goes to
MARGIN = 0.1  # the reference lies beyond the worst result of each objective by this share of their range
REDUCTION = 2  # one in two of the networks that reached a rung goes on to the next
PLAIN_IN_FULL = 5  # plain networks that go on however few others do,
PLAIN_SHARE = 8  # and one for so many of the others


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
    """Up to `count` networks that go on, each with the rung it goes to; `pending` was proposed but not yet told.

    A network with a loss beyond `worst` [M] adds nothing. `prices` [n] say what the whole training of each costs beside
    that of the others: those are preferred that add most for what theirs still costs. The first is whichever is
    expected to add most so. It is judged in full at once: the search has something to show early, and learns early what
    its rungs say of the end. So are plain ones, up to half of them all, as long as they cost no more than found ones.
    Then those found go to the rung after their own, from the highest down, one in REDUCTION of those that reached it.
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
    """The furthest result of the network that goes from where it is to the end; None where none gets there in time.

    It is the one that is expected to add most for the seconds that it takes. Found networks and plain ones take turns,
    up to PLAIN_IN_FULL of these, as long as they take no more time than found ones. `model` is None where too little is
    known for one: then each result speaks for itself alone.
    """
    rest = np.array([_rest(t, int(at), rungs) for t, at in zip(evidence.rows, evidence.rungs, strict=True)])
    in_time, below = rest <= seconds_left, evidence.rungs < len(rungs) - 1
    is_timed = np.isfinite(seconds_left) and bool((rest[below] > 0).all())  # else the trials end the search
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
    """Seconds of a whole training, the median of networks below the top rung; 0 where that is not known.

    Of the `plain` ones only where there are no others.
    """
    known = [
        (row.genome in plain, _whole(row, int(at), rungs))
        for row, at in zip(evidence.rows, evidence.rungs, strict=True)
    ]
    found = [seconds for is_plain, seconds in known if seconds and not is_plain]
    return float(np.median(found or [seconds for _, seconds in known if seconds] or [0.0]))


def _rest(row: Observation, rung: int, rungs: Sequence[str]) -> float:
    """Seconds until the end of the training of a network that was judged at a rung; 0 where that is not known."""
    return _whole(row, rung, rungs) * (1 - _done(rung, rungs)[-1])


def _whole(row: Observation, rung: int, rungs: Sequence[str]) -> float:
    """Seconds of the whole training, by what its last part took; 0 where that is not known, and at its end."""
    before, done = _done(rung, rungs)[-2:]
    if row.seconds is None or rung == len(rungs) - 1 or done <= before:
        return 0.0
    return row.seconds / (done - before)


def _done(rung: int, rungs: Sequence[str]) -> list[float]:
    """Which part of its training a network has behind it at its start and at each rung up to one below the top."""
    return [0.0, *({"supernet": 0.0, **SHARES}.get(name, 0.0) for name in rungs[: rung + 1])]


@dataclass(frozen=True)
class _State:
    """`rungs` [n]: the rung of each network's furthest result; `reached` [n]: with promotions under way.

    `price` [n]: of what is left of each training, None where all cost the same; `whole` [n]: of all of it.
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
        """Those expected to add most, for their price, to the front of what is `known`.

        That is all that is, or will be, judged in full where nothing else is said.
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
        """Of the plain family, by what they are expected to add to its own front.

        PLAIN_IN_FULL of them, and one for PLAIN_SHARE of those found.
        """
        found, plain = (
            int((kind & (self.reached == self.top)).sum()) for kind in (~self.is_plain, self.is_plain)
        )
        room = max(PLAIN_IN_FULL, found // PLAIN_SHARE) - plain
        return self.choose(self.is_plain & (self.rungs < self.top), min(room, most), self.is_plain)

    def affordable(self, chosen: Sequence[int], others: Sequence[int] = ()) -> list[int]:
        """The first of the plain networks `chosen` with which the plain ones cost no more to train than the found ones.

        Those count that are or will be judged in full, and the found ones `others`. One plain network may cost more.
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
        found: list[int] = []
        for lower in range(self.top - 1, -1, -1):
            arrived = int((among & (self.rungs >= lower)).sum())
            room = arrived // REDUCTION - int((among & (self.reached > lower)).sum())
            found += self.choose(among & (self.rungs == lower), room)
        return found
