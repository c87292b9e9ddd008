"""What judging a network in full takes in a study that ends by time, and so how many of them its time is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from studies.fidelity import SHARES
from studies.records import Study, Trial

ENOUGH = 12  # networks judged in full: fewer make no front beside that of the plain ones
EACH = 1.5  # trainings' worth of time for each network judged in full, with those that only began
ROUNDED = 5  # minutes


@dataclass(frozen=True)
class Outlook:
    """`training`: mean seconds of a whole training; `at_once`: how many ran at a time; `in_full`: judged in full."""

    training: float
    at_once: float
    in_full: int

    def expected(self, seconds: float) -> int:
        """About how many networks can be judged in full in so many seconds."""
        return int(seconds * self.at_once / (EACH * self.training))

    @property
    def minutes(self) -> int:
        """About what it takes from here until ENOUGH are, rounded up."""
        seconds = (ENOUGH - self.in_full) * EACH * self.training / self.at_once
        return max(ROUNDED, ROUNDED * math.ceil(seconds / 60 / ROUNDED))


def outlook(study: Study, trials: Sequence[Trial]) -> Outlook | None:
    """By what has been trained so far; None where the study has no time limit or trains no networks."""
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
    """That the time limit is short for the space, and what would be right; "" where it is long enough."""
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
    """How many trials ran at a time, while any did."""
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
