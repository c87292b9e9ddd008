"""The search loop: propose, evaluate, record, learn. The same function starts and resumes a study.

The lag rule: trial n is proposed from exactly the results of the trials 0 .. n - lag - 1, told in order of their
numbers. The lag belongs to the study, so timing, the number of workers, kills and resumes do not change which
architectures are tried. A trial is written to the database before it is evaluated, and its outcome before the searcher
learns from it; the outcomes of one step are written in one transaction.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

from nas.errors import UsageError
from nas.execution.lease import PAUSE_SECONDS, Lease
from nas.execution.runner import Runner
from nas.searchers.base import (
    TO_THE_END,
    NothingInTime,
    Proposal,
    Searcher,
    SpaceExhausted,
    observation_of,
)
from searchspace.spec.arch import ArchSpec
from studies.records import Control, Outcome, Study, StudyState, Trial
from studies.store import Store

LONGEST_BATCH_SECONDS = 0.05
# In the last shares of the time and of the trials a searcher with cheaper fidelities evaluates its best networks in
# full. If full evaluations are slow this phase begins earlier, but it takes at most MOST_LAST of the time.
LAST_SHARE, LAST_TRIALS = 0.3, 0.1
MOST_LAST = 0.7
LOOK_SECONDS = 0.5  # between two checks of the study's wanted state while no trial ends
INTERRUPTED = "interrupted"  # the reason of a search ended by Ctrl-C
STOPPED = "stopped on request"


@dataclass(frozen=True)
class Recovered:
    """The number of trials found in the database, of which `num_unfinished` are evaluated again."""

    num_trials: int
    num_unfinished: int


@dataclass(frozen=True)
class TrialFinished:
    """A finished trial; `counts` are the numbers of trials by state, including earlier runs."""

    trial: Trial
    counts: dict[str, int]


@dataclass(frozen=True)
class Ended:
    """The end of a search: why no more trials are proposed, and the study's new state."""

    reason: str
    state: str


Event: TypeAlias = Recovered | TrialFinished | Ended


def run(
    study: Study,
    store: Store,
    searcher: Searcher,
    runner: Runner,
    *,
    lease: Lease | None = None,
    on_event: Callable[[Event], None] | None = None,
    seconds_spent: float = 0.0,
) -> Study:
    """Search until the budget is spent, the space is exhausted, a stop is requested, or Ctrl-C; returns the study.

    A paused study waits after its running trials have ended. `lease` is the caller's, if that covers more than the
    search; else it is acquired here. `max_seconds` counts from this call, less `seconds_spent`; trials in flight are
    still finished. After Ctrl-C the trials in flight stay running in the database, and the next call evaluates them
    again under their numbers. The caller closes the runner. Raises UsageError if a resumed study can't be reproduced.
    """
    with nullcontext(lease) if lease else Lease(store, study) as held:
        search = _Search(study, store, searcher, runner, held, on_event or (lambda event: None))
        if search.deadline is not None:
            search.deadline -= seconds_spent
        try:
            ended = search.run()
        except KeyboardInterrupt:
            store.patience.end()
            ended = Ended(INTERRUPTED, StudyState.STOPPED)
        study = store.set_study_state(study, ended.state)
        search.on_event(ended)
        return study


class _Search:
    def __init__(
        self,
        study: Study,
        store: Store,
        searcher: Searcher,
        runner: Runner,
        lease: Lease,
        on_event: Callable[[Event], None],
    ) -> None:
        self.study, self.store, self.searcher, self.runner = study, store, searcher, runner
        self.lease, self.on_event = lease, on_event
        self.deadline = time.monotonic() + study.max_seconds if study.max_seconds is not None else None
        self.looked_at = time.monotonic()
        self.next_number = 0
        self.num_told = 0
        self.waiting: deque[Trial] = deque()
        self.in_flight: dict[int, Trial] = {}
        self.finished: dict[int, Trial] = {}  # finished trials not yet told
        self.archs: dict[int, ArchSpec] = {}  # architectures of trials proposed in this run and not yet told
        self.counts: Counter[str] = Counter()
        self.in_vain = -1  # the number of results at the last NothingInTime

    def run(self) -> Ended:
        self.recover()
        self.store.set_study_state(self.study, StudyState.RUNNING)
        self.tell_progress()
        ended = None
        while True:
            ended = ended or self.halt() or self.fill()
            if ended and (not self.in_flight or (ended.reason == STOPPED and self.runner.through_database)):
                return ended
            if not self.in_flight:  # paused
                time.sleep(PAUSE_SECONDS)
            elif outcomes := self.runner.wait(LOOK_SECONDS):
                self.record(outcomes)
            self.lease.check()

    def halt(self) -> Ended | None:
        """The end of the search if a stop is requested; while the study is paused its deadline is postponed."""
        now = time.monotonic()
        if self.deadline is not None and self.lease.control == Control.PAUSE:
            self.deadline += now - self.looked_at
        self.looked_at = now
        return Ended(STOPPED, StudyState.STOPPED) if self.lease.control == Control.STOP else None

    def fill(self) -> Ended | None:
        """Keep the runner busy. Returns the end of the search if nothing more can be started, else None."""
        while (
            self.lease.control != Control.PAUSE and (room := self.runner.capacity - len(self.in_flight)) > 0
        ):
            if self.deadline is not None and time.monotonic() >= self.deadline:
                return Ended(f"{self.study.max_seconds:g} s are over", StudyState.STOPPED)
            if self.waiting:
                self.begin_again([self.waiting.popleft() for _ in range(min(room, len(self.waiting)))])
                continue
            if self.in_flight and self.in_vain == self.counts.total():
                return None  # wait until a new result changes what can be finished in time
            proposed, ended = self.propose(room)
            if proposed:
                self.begin(proposed)
            if ended or not proposed:
                return ended
        return None

    def propose(self, count: int) -> tuple[list[Trial], Ended | None]:
        """(up to `count` new trials, the end of the search or None); fewer trials if asking is slow."""
        proposed: list[Trial] = []
        enough = time.monotonic() + LONGEST_BATCH_SECONDS
        while len(proposed) < count and (not proposed or time.monotonic() < enough):
            if self.next_number >= self.study.max_trials:
                return proposed, Ended(f"{self.study.max_trials} trials are done", StudyState.FINISHED)
            if not self.tell_for(self.next_number):
                break
            try:
                proposal = self.searcher.ask(self.next_number, self.seconds_left())
            except SpaceExhausted as exhausted:
                return proposed, Ended(str(exhausted), StudyState.FINISHED)
            except NothingInTime as reason:
                self.in_vain = self.counts.total()
                is_over = not proposed and not self.in_flight
                return proposed, Ended(str(reason), StudyState.STOPPED) if is_over else None
            self.archs[self.next_number] = proposal.arch
            proposed.append(_trial_of(self.next_number, proposal))
            self.next_number += 1
        return proposed, None

    def seconds_left(self) -> float | None:
        """Seconds until the search ends if its last phase has begun, infinite if only its trials run out; else None."""
        near = []
        if self.deadline is not None and self.study.max_seconds is not None:
            left, whole = self.deadline - time.monotonic(), self.study.max_seconds
            needed = self.searcher.finishing_seconds() / max(1, self.runner.capacity)
            near += [left] if left < max(LAST_SHARE * whole, min(needed, MOST_LAST * whole)) else []
        if self.next_number >= (1 - LAST_TRIALS) * self.study.max_trials:
            near.append(math.inf)
        return min(near, default=None)

    def begin(self, trials: list[Trial]) -> None:
        worker = "" if self.runner.through_database else self.lease.owner
        self.store.add_trials(self.study, trials, worker, owner=self.lease.owner)
        self.submit(trials)

    def begin_again(self, trials: list[Trial]) -> None:
        if not self.runner.through_database:  # otherwise the trial's worker may still be alive
            numbers = [t.number for t in trials]
            self.store.start_trials(self.study, numbers, self.lease.owner, owner=self.lease.owner)
        self.submit(trials)

    def submit(self, trials: list[Trial]) -> None:
        for trial in trials:
            self.in_flight[trial.number] = trial
            self.runner.submit(trial)

    def record(self, outcomes: list[Outcome]) -> None:
        written = [] if self.runner.through_database else outcomes
        self.store.finish_trials(self.study, written, self.searcher.state(), owner=self.lease.owner)
        for outcome in outcomes:
            trial = replace(self.in_flight.pop(outcome.number), **vars(outcome))
            self.finished[trial.number] = trial
            self.counts[trial.state] += 1
            self.on_event(TrialFinished(trial, dict(self.counts)))
        self.tell_progress()

    def tell_progress(self) -> None:
        self.lease.progress.advance("searching", self.counts.total(), self.study.max_trials)

    def tell_for(self, number: int) -> bool:
        """Tell the results that trial `number` is proposed from; False if one of them is missing."""
        while self.num_told < number - self.study.lag:
            if self.num_told not in self.finished:
                return False
            trial = self.finished.pop(self.num_told)
            arch = self.archs.pop(trial.number, None)
            self.searcher.tell(observation_of(trial, self.study.objectives, self.searcher.encoding, arch))
            self.num_told += 1
        return True

    def recover(self) -> None:
        """Restore the searcher's state: register and tell the recorded trials in the order of the lag rule.

        Proposals are registered without asking again, because asking has no other effect and can be much slower than
        telling. Only the last few are asked for again: if one differs from the record, all later ones would too.
        Raises UsageError in this case.
        """
        trials = self.store.trials(self.study)
        saved = self.store.searcher_state(self.study)
        for trial in trials:
            try:
                self.tell_for(trial.number)
                if saved and saved["num_told"] == self.num_told and saved != self.searcher.state():
                    raise ValueError("the searcher reaches another state than recorded")
                self.propose_again(trial, check=trial.number >= len(trials) - max(1, self.study.lag))
            except (SpaceExhausted, ValueError) as error:
                raise UsageError(
                    f"study {self.study.name!r} can't be resumed: the space, the code or the searcher has changed "
                    f"since it began, first noticed at trial {trial.number} ({error}); resume it with the version "
                    f"that began it, or start a new study"
                ) from error
        if trials:
            self.on_event(Recovered(len(trials), len(self.waiting)))

    def propose_again(self, trial: Trial, check: bool) -> None:
        if trial.number != self.next_number:
            raise ValueError(f"the record has no trial {self.next_number}")
        if not check or trial.origin == TO_THE_END:
            self.searcher.register(trial.arch_id, trial.arch, trial.fidelity, trial.origin)
        else:
            again = self.searcher.ask(trial.number)
            if (again.arch.id, again.fidelity) != (trial.arch_id, trial.fidelity):
                raise ValueError(f"it would now propose {again.arch.id}, the record has {trial.arch_id}")
        self.next_number += 1
        if trial.is_finished:
            self.finished[trial.number] = trial
            self.counts[trial.state] += 1
        else:
            self.waiting.append(trial)


def _trial_of(number: int, proposal: Proposal) -> Trial:
    arch = proposal.arch
    return Trial(
        number,
        arch.to_json(),
        arch.id,
        fidelity=proposal.fidelity,
        origin=proposal.origin,
        parents=proposal.parents,
    )
