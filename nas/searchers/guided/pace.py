"""How often the opening of a search proposes a plain network, given the cost of training plain networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.searchers.base import Problem
from searchspace.spec.arch import ArchSpec

EVERY, SELDOM = 2, 8  # bounds: at most one proposal in EVERY is plain, at least one in SELDOM
NUM_DRAWN, NUM_PRICED = 256, 8  # pricing a network with new operator settings takes up to a second


def pace(problem: Problem, price: Callable[[ArchSpec], float]) -> int:
    """The period of plain proposals at which the plain family takes about half of the total training cost.

    `price` is the cost of a network's training in any unit, nan if unknown. Its medians over plain and over random
    valid networks are compared. Returns EVERY if a median is unknown.
    """
    decode = problem.encoding.decode
    drawn = problem.encoding.random(NUM_DRAWN, np.random.default_rng(problem.seed))
    random = [a for a in map(decode, map(tuple, drawn.tolist())) if problem.why_invalid(a) is None]
    plain = np.median([price(decode(genome)) for genome in problem.plain[:NUM_PRICED]] or [np.nan])
    other = np.median([price(arch) for arch in random[:NUM_PRICED]] or [np.nan])
    if not np.isfinite([plain, other]).all() or other <= 0:
        return EVERY
    return int(np.clip(1 + round(float(plain / other)), EVERY, SELDOM))
