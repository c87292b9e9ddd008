"""A study as it stands, as Python and a notebook show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from studies.records import TRIAL_STATES, Study, Trial


@dataclass(frozen=True, repr=False)
class Result:
    """A study as it stands.

    `study` has its settings; `trials` are all of them in the order of their numbers, with values in the units of the
    study's objectives; `front` those that no other beats; `reason` says why the search stopped, "" where it did not.
    """

    study: Study
    trials: list[Trial]
    front: list[Trial]
    reason: str = ""

    def __repr__(self) -> str:
        states = Counter(t.state for t in self.trials)
        found = ", ".join(f"{states[s]} {s}" for s in TRIAL_STATES if s in states) or "no trials"
        return f"<study {self.study.name!r}: {found}; {len(self.front)} on the front>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from nas.presentation.html_report import fragment

        return fragment(self)
