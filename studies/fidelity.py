"""The rungs of a fidelity ladder: cheaper judgements of the same architecture, cheapest first.

    proxy      a training-free score stands for quality
    supernet   quality with weights inherited from a supernet
    eighth, quarter, half    quality after so much of the network's own training, which goes on at the next rung
    train      quality after all of it

A trial's `fidelity` names its rung, "" the study's own judgement, which alone counts for the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from studies.records import Objective

SHARES = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2}  # of a training
RUNGS = ("proxy", "supernet", *SHARES, "train")
PROXY = "log_synflow"
_OF_QUALITY = ("inherited", "trained")


def at(fidelity: str, objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """The objectives as a rung judges them: at `proxy` the score in place of quality; bounds on quality wait.

    What is judged at a lower rung may still come within its bound.
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
