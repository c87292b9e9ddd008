"""How well a study's cheaper judgements ranked the networks that were later judged in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.agreement import MIN_STRATUM, Estimate, agreement
from studies.fidelity import RUNGS
from studies.records import Objective, Trial


@dataclass(frozen=True)
class RungAgreement:
    """Kendall's tau, with its 95 % interval, between losses at a rung and full losses of the same networks."""

    rung: str
    tau: Estimate
    count: int


def rung_agreements(trials: Sequence[Trial], quality: Objective) -> list[RungAgreement]:
    """Return the agreement of each rung with at least MIN_STRATUM networks that were also judged in full.

    Only promoted networks, which are the better ones, can be compared: over all networks a rung ranks better than this.
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
