"""Which networks are judged again, dearer: those that may extend the front of what was judged in full.

The plain networks are there to be compared with, and cost most of all, for they are many and large: a few of them that
span their family's own front are judged in full, and further ones only as fast as the networks found are.
Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Told
from nas.searchers.guided.evidence import Evidence
from nas.searchers.guided.improvement import choose_batch
from nas.searchers.guided.model import Model
from searchspace.spec.genome import Genome
from studies.pareto import Points
from studies.records import TrialState

Climb = tuple[Told, str]  # the furthest result of a network, and the rung it goes to
MARGIN = 0.1  # the reference lies beyond the worst result of each objective by this share of their range
REDUCTION = 2  # one in two of the networks that reached a rung goes on to the next
PLAIN_IN_FULL = 5  # plain networks that go on however few others do


def climb(
    evidence: Evidence,
    model: Model,
    pending: Sequence[tuple[Genome, str]],
    rungs: Sequence[str],
    plain: Collection[Genome],
    count: int,
) -> list[Climb]:
    """Up to `count` networks that go on, each to the rung after its own; `pending` was proposed but not yet told.

    The first is whichever network is expected to add most, so that the best one known is soon judged in full. Then
    plain ones, up to half of them all; then those found, from the highest rung down, one in REDUCTION of those that
    reached it.
    """
    state = _State.of(evidence, model, pending, rungs, plain)
    chosen = state.choose(~state.is_plain & (evidence.rungs < state.top), 1)
    chosen += state.plain_ones(max(0, count // 2))
    chosen += state.halved(~state.is_plain)
    kept = list(dict.fromkeys(chosen))[:count]
    return [(evidence.rows[i], rungs[evidence.rungs[i] + 1]) for i in kept]


@dataclass(frozen=True)
class _State:
    """`rungs` [n]: the rung of each network's furthest result; `reached` [n]: with promotions under way."""

    means: Points
    stds: Points
    reference: NDArray[np.float64]
    rungs: NDArray[np.int64]
    reached: NDArray[np.int64]
    is_open: NDArray[np.bool_]
    is_plain: NDArray[np.bool_]
    top: int

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        model: Model,
        pending: Sequence[tuple[Genome, str]],
        rungs: Sequence[str],
        plain: Collection[Genome],
    ) -> _State:
        rows, top = evidence.rows, len(rungs) - 1
        reached = evidence.rungs.copy()
        index = {t.genome: i for i, t in enumerate(rows)}
        for genome, fidelity in pending:
            if genome in index:
                reached[index[genome]] = max(reached[index[genome]], rungs.index(fidelity))
        losses = np.array([t.losses for t in rows])
        described = model.features(np.array([t.genome for t in rows]))
        means, stds = model.of_judged(described, losses, evidence.stds)
        is_exact = evidence.rungs == top
        means[is_exact], stds[is_exact] = losses[is_exact], 0.0
        return cls(
            means,
            stds,
            losses.max(axis=0) + MARGIN * np.maximum(model.spans, 1e-12),
            evidence.rungs,
            reached,
            np.array([t.state == TrialState.COMPLETE and t.violation == 0 for t in rows])
            & (reached == evidence.rungs),
            np.array([t.genome in plain for t in rows], dtype=bool),
            top,
        )

    def choose(
        self, among: NDArray[np.bool_], count: int, known: NDArray[np.bool_] | None = None
    ) -> list[int]:
        """Those expected to add most to the front of what is `known`: all that is, or will be, judged in full."""
        candidates = np.flatnonzero(among & self.is_open)
        if not len(candidates) or count < 1:
            return []
        in_full = self.reached == self.top
        front = self.means[in_full if known is None else in_full & known]
        means, stds = self.means[candidates], self.stds[candidates]
        certain = np.ones(len(candidates))
        picked = choose_batch(means, stds, certain, front, self.reference, count)
        return [int(candidates[i]) for i in picked]

    def plain_ones(self, most: int) -> list[int]:
        """Of the plain family, by what they are expected to add to its own front, the furthest first."""
        found: list[int] = []
        for lower in range(self.top - 1, -1, -1):
            arrived = int((self.is_plain & (self.rungs >= lower)).sum())
            others = int((~self.is_plain & (self.reached > lower)).sum())
            quota = max(PLAIN_IN_FULL, arrived // REDUCTION, others // REDUCTION)
            room = quota - int((self.is_plain & (self.reached > lower)).sum())
            found += self.choose(self.is_plain & (self.rungs == lower), room, self.is_plain)
        return found[:most]

    def halved(self, among: NDArray[np.bool_]) -> list[int]:
        found: list[int] = []
        for lower in range(self.top - 1, -1, -1):
            arrived = int((among & (self.rungs >= lower)).sum())
            room = arrived // REDUCTION - int((among & (self.reached > lower)).sum())
            found += self.choose(among & (self.rungs == lower), room)
        return found
