"""What cheaper judgements say of the dearest one, with how far they may be off.

A network that was judged at several rungs gives one row: exact where it reached the top, else carried upwards rung by
rung. From each rung to the next a line is fitted to the networks of this study that were judged at both, drawn towards
"what is ahead now stays ahead by as much" while they are few; its residuals are the uncertainty.
Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Told

PRIOR_PAIRS = 3.0  # how many networks the prior on a line counts for
PRIOR_SPREAD = (
    0.5  # the residual expected before any network was judged at both rungs, in deviations of the lower one
)

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """One row for each architecture, in the order in which they were first told.

    `rows`: its furthest result, with the losses expected at the top; `stds` [n, M]: 0 where that was judged; `rungs`
    [n]: the index of the furthest rung.
    """

    rows: list[Told]
    stds: Losses
    rungs: NDArray[np.int64]


def gather(told: Sequence[Told], rungs: Sequence[str], climbing: frozenset[int]) -> Evidence:
    """`rungs` from the cheapest to the study's own; `climbing` are the objectives that they know differently well.

    Failed results are left out.
    """
    results: dict[tuple[int, ...], dict[int, Told]] = {}
    for trial in told:
        if trial.is_ranked:
            results.setdefault(trial.genome, {})[rungs.index(trial.fidelity)] = trial
    furthest = [(max(reached), reached[max(reached)]) for reached in results.values()]
    losses = np.array([trial.losses for _, trial in furthest])
    stds = np.zeros_like(losses)
    at = np.array([rung for rung, _ in furthest], dtype=np.int64)
    for j in climbing if len(furthest) else ():
        for lower, higher in pairwise(range(len(rungs))):
            below = at <= lower
            if not below.any():
                continue
            line = _line(_pairs(results, lower, higher, j), losses[at == lower, j])
            losses[below, j], stds[below, j] = line(losses[below, j], stds[below, j])
    rows = [replace(t, losses=losses[i], fidelity="") for i, (_, t) in enumerate(furthest)]
    return Evidence(rows, stds, at)


def _pairs(
    results: dict[tuple[int, ...], dict[int, Told]], lower: int, higher: int, objective: int
) -> Losses:
    """Losses of the networks that were judged at both rungs. [k, 2]."""
    found = [
        (r[lower].losses[objective], r[higher].losses[objective])
        for r in results.values()
        if {lower, higher} <= r.keys()
    ]
    pairs = np.array(found, dtype=np.float64).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(axis=1)]


@dataclass(frozen=True)
class _Line:
    slope: float
    center: float
    level: float
    residual: float

    def __call__(self, losses: Losses, stds: Losses) -> tuple[Losses, Losses]:
        """Losses and their deviations one rung further up."""
        expected = self.level + self.slope * (losses - self.center)
        return expected, np.hypot(self.slope * stds, self.residual)


def _line(pairs: Losses, others: Losses) -> _Line:
    """pairs: [k, 2]; others: losses at the lower rung of the networks that are there, which say how far they spread."""
    known = np.concatenate([pairs[:, 0], others[np.isfinite(others)]])
    spread = float(known.std()) if len(known) > 1 else 0.0
    if not len(pairs):
        return _Line(1.0, 0.0, 0.0, max(PRIOR_SPREAD * spread, 1e-9))
    center, level = pairs.mean(axis=0)
    x, y = (pairs - (center, level)).T
    prior = PRIOR_PAIRS * spread**2
    slope = float((x @ y + prior) / (x @ x + prior)) if x @ x + prior > 0 else 1.0
    squares = float(((y - slope * x) ** 2).sum()) + PRIOR_PAIRS * (PRIOR_SPREAD * spread) ** 2
    return _Line(
        slope, float(center), float(level), max(float(np.sqrt(squares / (len(pairs) + PRIOR_PAIRS))), 1e-9)
    )
