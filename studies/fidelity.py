"""The rungs of a fidelity ladder: cheaper judgements of an architecture, cheapest first.

    proxy      a training-free score in place of quality
    supernet   quality with weights inherited from a supernet
    eighth, quarter, half    quality after that share of the network's own training, which continues at the next rung
    train      quality after the whole training

A trial's `fidelity` names its rung; "" is the study's own judgement, which alone counts for the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from studies.records import Objective

SHARES = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2}  # of a whole training
RUNGS = ("proxy", "supernet", *SHARES, "train")
PROXY = "log_synflow"
_OF_QUALITY = ("inherited", "trained")


def at(fidelity: str, objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Return the objectives as judged at a rung: at `proxy` the score replaces quality; bounds on quality are dropped.

    A trial that misses a bound at a lower rung may still meet it later.
    """
    if not fidelity:
        return tuple(objectives)
    score = Objective(PROXY, "maximize", source="proxy")
    return tuple(
        o
        if o.source not in _OF_QUALITY
        else score
        if fidelity == "proxy"
        else replace(o, lower=None, upper=None)
        for o in objectives
    )
