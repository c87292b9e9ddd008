"""How well the cheaper judgements of a study ranked what was judged in full: what they turned out to be worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.agreement import MIN_STRATUM, Estimate, agreement
from studies.fidelity import RUNGS
from studies.records import Objective, Trial


@dataclass(frozen=True)
class RungAgreement:
    """Kendall's tau, with its 95 % interval, of the losses at a rung with those of the same networks in full."""

    rung: str
    tau: Estimate
    count: int


def rung_agreements(trials: Sequence[Trial], quality: Objective) -> list[RungAgreement]:
    """Of each rung at which at least MIN_STRATUM of the networks were judged that were judged in full.

    Only networks that went on are compared, which are the better ones: among all, a rung ranks better than this.
    """
    whole = {t.arch_id: t.values for t in trials if t.fidelity == "" and quality.name in t.values}
    found = []
    for rung in RUNGS:
        both = [
            (quality.loss(t.values[quality.name]), quality.loss(whole[t.arch_id][quality.name]))
            for t in trials
            if t.fidelity == rung and t.arch_id in whole and quality.name in t.values
        ]
        if len(both) >= MIN_STRATUM:
            judged, truth = np.array(both).T
            tau = agreement(-judged, -truth, [""] * len(both)).overall["kendall"]
            found.append(RungAgreement(rung, tau, len(both)))
    return found
