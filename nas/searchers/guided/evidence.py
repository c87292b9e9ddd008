"""What cheaper judgements say of the dearest one, with how far they may be off.

A network that was judged at several rungs gives one row: exact where it reached the top, else carried there by a line.
From the highest rung down, each rung's line is fitted to the networks of this study that went on from it, with what is
then known of them at the top, drawn towards "what is ahead now stays ahead by as much" while they are few; its
residuals are the uncertainty.
Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation

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

    rows: list[Observation]
    stds: Losses
    rungs: NDArray[np.int64]


def gather(told: Sequence[Observation], rungs: Sequence[str], climbing: frozenset[int]) -> Evidence:
    """`rungs` from the cheapest to the study's own; `climbing` are the objectives that they know differently well.

    Failed results are left out.
    """
    results: dict[tuple[int, ...], dict[int, Observation]] = {}
    for trial in told:
        if trial.is_ranked:
            results.setdefault(trial.genome, {})[rungs.index(trial.fidelity)] = trial
    furthest = [(max(reached), reached[max(reached)]) for reached in results.values()]
    losses = np.array([trial.losses for _, trial in furthest])
    stds = np.zeros_like(losses)
    at = np.array([rung for rung, _ in furthest], dtype=np.int64)
    for j in climbing if len(furthest) else ():
        for rung in range(len(rungs) - 2, -1, -1):
            here = at == rung
            beyond = np.flatnonzero(at > rung)
            known = np.array([_loss(reached, rung, j) for reached in results.values()])
            beyond = beyond[np.isfinite(known[beyond]) & np.isfinite(losses[beyond, j])]
            line = _line(known[beyond], losses[beyond, j], stds[beyond, j], known[here])
            losses[here, j], stds[here, j] = line(known[here])
    rows = [replace(t, losses=losses[i], fidelity="") for i, (_, t) in enumerate(furthest)]
    return Evidence(rows, stds, at)


def _loss(reached: Mapping[int, Observation], rung: int, objective: int) -> float:
    return float(reached[rung].losses[objective]) if rung in reached else np.nan


@dataclass(frozen=True)
class _Line:
    slope: float
    center: float
    level: float
    residual: float

    def __call__(self, losses: Losses) -> tuple[Losses, Losses]:
        """What is expected at the top of networks with these losses, and its deviation."""
        return self.level + self.slope * (losses - self.center), np.full(len(losses), self.residual)


def _line(lower: Losses, top: Losses, stds: Losses, others: Losses) -> _Line:
    """From the losses at a rung to those expected at the top, with their deviations, of networks that went on. [k].

    `others`: losses at the rung of the networks that are there, which say how far they spread. A network counts for
    less, the less its loss at the top is known.
    """
    known = np.concatenate([lower, others[np.isfinite(others)]])
    spread = float(known.std()) if len(known) > 1 else 0.0
    expected = max(PRIOR_SPREAD * spread, 1e-9)
    if not len(lower):
        return _Line(1.0, 0.0, 0.0, expected)
    weights = expected**2 / (expected**2 + stds**2)
    total = float(weights.sum())
    center, level = float(weights @ lower / total), float(weights @ top / total)
    x, y = lower - center, top - level
    prior = PRIOR_PAIRS * spread**2
    slope = (float(weights @ (x * y)) + prior) / max(float(weights @ x**2) + prior, 1e-300)
    squares = float(weights @ ((y - slope * x) ** 2 + stds**2)) + PRIOR_PAIRS * expected**2
    return _Line(slope, center, level, float(np.sqrt(squares / (total + PRIOR_PAIRS))))
