"""Which networks are judged again, dearer: those that may extend the front of what was judged in full.

Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Told
from nas.searchers.guided.evidence import Evidence
from nas.searchers.guided.improvement import boxes, expected_improvement, thinned
from nas.searchers.guided.model import Model
from searchspace.spec.genome import Genome
from studies.records import TrialState

Climb = tuple[Told, str]  # the furthest result of a network, and the rung it goes to
MARGIN = 0.1  # the reference lies beyond the worst result of each objective by this share of their range


def climb(
    evidence: Evidence,
    model: Model,
    pending: Sequence[tuple[Genome, str]],
    rungs: Sequence[str],
    plain: Collection[Genome],
    reduction: int,
) -> tuple[list[Climb], list[Climb]]:
    """Whose networks go on: those of the plain family, and of the others, each from the highest rung down.

    Of the others that reached a rung, one in `reduction` goes on; `pending` has what was proposed but not yet told,
    with its rung.
    """
    top = len(rungs) - 1
    rows = evidence.rows
    reached = evidence.rungs.copy()  # promotions under way among them
    index = {t.genome: i for i, t in enumerate(rows)}
    for genome, fidelity in pending:
        if genome in index:
            reached[index[genome]] = max(reached[index[genome]], rungs.index(fidelity))
    is_plain = np.array([t.genome in plain for t in rows], dtype=bool)
    open_ = np.array([t.state == TrialState.COMPLETE and t.violation == 0 for t in rows]) & (
        reached == evidence.rungs
    )
    plain_ones = _plain_climbers(evidence, is_plain & open_, is_plain, top)
    climbers = [(rows[i], rungs[evidence.rungs[i] + 1]) for i in plain_ones]
    found: list[Climb] = []
    gains = _gains(evidence, model, reached, top)
    for lower in range(top - 1, -1, -1):
        arrived = ~is_plain & (evidence.rungs >= lower)
        room = int(arrived.sum()) // reduction - int((~is_plain & (reached > lower)).sum())
        candidates = np.flatnonzero(open_ & ~is_plain & (evidence.rungs == lower))
        best = candidates[np.argsort(-gains[candidates], kind="stable")][: max(0, room)]
        found += [(rows[i], rungs[lower + 1]) for i in best]
    return climbers, found


def _plain_climbers(
    evidence: Evidence, is_open: NDArray[np.bool_], is_plain: NDArray[np.bool_], top: int
) -> Iterator[int]:
    """Those that no other plain network beats for certain, the furthest first, the one with the least loss before."""
    losses = np.array([t.losses for t in evidence.rows])
    best, worst = losses - evidence.stds, losses + evidence.stds
    order = np.lexsort((losses[:, 0], -evidence.rungs))
    for i in order:
        if is_open[i] and evidence.rungs[i] < top:
            others = worst[is_plain & (np.arange(len(losses)) != i)]
            if not (others <= best[i]).all(axis=1).any():
                yield int(i)


def _gains(evidence: Evidence, model: Model, reached: NDArray[np.int64], top: int) -> NDArray[np.float64]:
    """The hypervolume each is expected to add to the front of those that are, or will be, judged in full. [n]."""
    losses = np.array([t.losses for t in evidence.rows])
    described = model.features(np.array([t.genome for t in evidence.rows]))
    means, stds = model.of_judged(described, losses, evidence.stds)
    reference = losses.max(axis=0) + MARGIN * np.maximum(model.spans, 1e-12)
    is_exact = evidence.rungs == top
    known = np.vstack([losses[is_exact], means[~is_exact & (reached == top)]])
    return expected_improvement(means, stds, *boxes(thinned(known, reference), reference))
