"""Extrapolate results of lower rungs to the top rung, with standard deviations.

Each network gives one row: exact if it reached the top rung, else extrapolated by a line. From the highest rung down,
each rung's line is fitted to the networks that were promoted from it and their losses at the top, as known or already
extrapolated. A prior pulls its slope towards 1 while they are few; its residuals give the standard deviation.
Shapes: n architectures, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.searchers.base import Observation

PRIOR_PAIRS = 3.0  # weight of the prior on a line, in networks
PRIOR_SPREAD = (
    0.5  # the residual expected before any network was judged at both rungs, in deviations of the lower one
)

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """One row for each architecture, in the order of their first results.

    `rows`: its result at its highest rung, with the losses expected at the top; `stds` [n, M]: their standard
    deviations, 0 where the top was measured; `rungs` [n]: the index of its highest rung.
    """

    rows: list[Observation]
    stds: Losses
    rungs: NDArray[np.int64]


def gather(told: Sequence[Observation], rungs: Sequence[str], climbing: frozenset[int]) -> Evidence:
    """The evidence of results; failed ones are left out. `rungs`: fidelities from the cheapest to the study's own.

    `climbing`: indices of the objectives that higher rungs measure more accurately; the others are taken as exact.
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
        """(expected losses at the top, their standard deviations), each [k], for losses [k] at the line's rung."""
        return self.level + self.slope * (losses - self.center), np.full(len(losses), self.residual)


def _line(lower: Losses, top: Losses, stds: Losses, others: Losses) -> _Line:
    """The line from losses at a rung, `lower` [k], to losses at the top, `top` [k] with deviations `stds` [k].

    `others`: losses of networks that are still at the rung; with `lower` they give the spread of the prior. A network
    has less weight, the larger its deviation at the top.
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
