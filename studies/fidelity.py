"""The rungs of a fidelity ladder: cheaper judgements of the same architecture, cheapest first.

    proxy      a training-free score stands for quality
    supernet   quality with weights inherited from a supernet
    short      quality after a part of the training
    train      quality after all of it

A trial's `fidelity` names its rung, "" the study's own judgement, which alone counts for the front.
"""

from __future__ import annotations

from collections.abc import Sequence

from studies.records import Objective

RUNGS = ("proxy", "supernet", "short", "train")
PROXY = "log_synflow"
_OF_QUALITY = ("inherited", "trained")


def at(fidelity: str, objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """The objectives as a rung judges them: at `proxy` the score in place of quality, without its bounds."""
    if fidelity != "proxy":
        return tuple(objectives)
    score = Objective(PROXY, "maximize", source="proxy")
    return tuple(score if o.source in _OF_QUALITY else o for o in objectives)
