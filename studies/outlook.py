"""Time per fully judged network in a study with a time limit, and how many networks the limit allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from studies.fidelity import SHARES
from studies.records import Study, Trial

ENOUGH = 12  # fully judged networks; fewer do not make a front next to the plain ones
EACH = 1.5  # training times per fully judged network, including the networks that stopped early
ROUNDED = 5  # minutes


@dataclass(frozen=True)
class Outlook:
    """`training`: mean seconds of a whole training; `at_once`: parallel trials; `in_full`: fully judged networks."""

    training: float
    at_once: float
    in_full: int

    def expected(self, seconds: float) -> int:
        """Return about how many networks can be judged in full in this many seconds."""
        return int(seconds * self.at_once / (EACH * self.training))

    @property
    def minutes(self) -> int:
        """About how many more minutes it takes until ENOUGH networks are judged in full, rounded up."""
        seconds = (ENOUGH - self.in_full) * EACH * self.training / self.at_once
        return max(ROUNDED, ROUNDED * math.ceil(seconds / 60 / ROUNDED))


def outlook(study: Study, trials: Sequence[Trial]) -> Outlook | None:
    """Estimate from the trainings so far; None where there are none, or the study has no time limit or training."""
    timed = [t for t in trials if t.is_finished and t.seconds]
    if study.max_seconds is None or study.quality != "train":
        return None
    done: dict[str, float] = {}
    seconds = part = 0.0
    for trial in sorted(timed, key=lambda t: t.number):
        share = SHARES.get(trial.fidelity, 0.0 if trial.fidelity else 1.0)
        before = done.get(trial.arch_id, 0.0)
        if trial.values and share > before:
            seconds, part = seconds + (trial.seconds or 0.0), part + share - before
            done[trial.arch_id] = share
    if not part:
        return None
    in_full = sum(not t.fidelity and bool(t.values) for t in timed)
    return Outlook(seconds / part, _at_once(timed), in_full)


def short_of_time(study: Study, trials: Sequence[Trial]) -> str:
    """Return a sentence that the time limit is short and what to do; "" where it is long enough or unknown."""
    found = outlook(study, trials)
    if found is None or study.max_seconds is None:
        return ""
    count = max(found.in_full, found.expected(study.max_seconds))
    if count >= ENOUGH:
        return ""
    return (
        f"a whole training takes about {found.training:.2g} s here, so {study.max_seconds:g} s are for about {count} "
        f"networks judged in full, which is few: for {ENOUGH} go on with `nas resume {study.name} --time "
        f"{found.minutes}m`, or begin a study with fewer --training-steps"
    )


def _at_once(trials: Sequence[Trial]) -> float:
    """Mean number of trials that ran in parallel, over the time in which any ran."""
    spans = []
    for trial in trials:
        if trial.finished_at and trial.seconds:
            finish = datetime.fromisoformat(trial.finished_at).timestamp()
            spans.append((finish - trial.seconds, finish))
    busy, end = 0.0, -math.inf
    for start, finish in sorted(spans):
        busy += max(0.0, finish - max(start, end))
        end = max(end, finish)
    return max(1.0, sum(finish - start for start, finish in spans) / busy) if busy else 1.0
