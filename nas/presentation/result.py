"""The result of a study, for Python and notebooks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from studies.latencies import Latencies
from studies.records import TRIAL_STATES, Study, Trial
from studies.worth import handed_over


@dataclass(frozen=True, repr=False)
class Result:
    """The current state of a study.

    `study` has its settings; `trials` are all trials ordered by number, with values in the units of the study's
    objectives; `front` is the Pareto front; `reason` says why the search ended, "" if it did not. `latencies` are the
    measured latencies of networks of the front, in ms by content id.
    """

    study: Study
    trials: list[Trial]
    front: list[Trial]
    reason: str = ""
    latencies: Latencies = field(default_factory=dict)

    @property
    def knee(self) -> Trial | None:
        """The trial that is extracted by default; None if the front is empty."""
        return handed_over(self.study, self.trials, self.front, self.latencies)

    def __repr__(self) -> str:
        states = Counter(t.state for t in self.trials)
        found = ", ".join(f"{states[s]} {s}" for s in TRIAL_STATES if s in states) or "no trials"
        return f"<study {self.study.name!r}: {found}; {len(self.front)} on the front>"

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows."""
        from nas.presentation.html_report import fragment

        return fragment(self)
