"""A study as it stands, as Python and a notebook show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from studies.latencies import Latencies
from studies.records import TRIAL_STATES, Study, Trial
from studies.worth import handed_over


@dataclass(frozen=True, repr=False)
class Result:
    """A study as it stands.

    `study` has its settings; `trials` are all of them in the order of their numbers, with values in the units of the
    study's objectives; `front` those that no other beats; `reason` says why the search stopped, "" where it did not.
    `latencies` has what networks of the front took where they were timed, in ms by content id.
    """

    study: Study
    trials: list[Trial]
    front: list[Trial]
    reason: str = ""
    latencies: Latencies = field(default_factory=dict)

    @property
    def knee(self) -> Trial | None:
        """The network that is handed over unasked; None where the front is empty."""
        return handed_over(self.study, self.trials, self.front, self.latencies)

    def __repr__(self) -> str:
        states = Counter(t.state for t in self.trials)
        found = ", ".join(f"{states[s]} {s}" for s in TRIAL_STATES if s in states) or "no trials"
        return f"<study {self.study.name!r}: {found}; {len(self.front)} on the front>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from nas.presentation.html_report import fragment

        return fragment(self)
