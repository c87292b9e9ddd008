"""The search loop: propose, evaluate, record, learn. The same call starts a study and goes on with one.

The lag rule: trial n is proposed from exactly the results of the trials 0 .. n - lag - 1, told in number
order. The lag belongs to the study, so timing, the number of workers, a kill and a resume can't change which
architectures are tried. The database comes first: a trial is written before it is evaluated, its outcome
before anything is learnt from it; what one step brings is written in one transaction.
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
# Of the time, and of the trials: then a searcher with cheaper judgements judges its best networks in full. Where
# judgements are long for the time it begins as soon as it has to, but after MOST_LAST of the time at the latest.
LAST_SHARE, LAST_TRIALS = 0.3, 0.1
MOST_LAST = 0.7
LOOK_SECONDS = 0.5  # between two looks at what is wanted of the study, where no trial ends
INTERRUPTED = "interrupted"  # the reason of an end by Ctrl-C
STOPPED = "stopped on request"


@dataclass(frozen=True)
class Recovered:
    """What the database held: how many trials, of which `num_unfinished` are evaluated again."""

    num_trials: int
    num_unfinished: int


@dataclass(frozen=True)
class TrialFinished:
    """`counts` has the number of trials by state, those of earlier runs included."""

    trial: Trial
    counts: dict[str, int]


@dataclass(frozen=True)
class Ended:
    """Why no more trials are proposed, and the study's state from now on."""

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
    """Search until the budget is spent, the space is exhausted, a stop is wanted, or Ctrl-C.

    Returns the study as it then is; one that is paused waits, once the trials that have begun are done.

    `lease` is the caller's, where what comes before or after the search belongs under it; else it is taken here.
    `max_seconds` counts from this call, less `seconds_spent`; what is in flight then is still finished. After Ctrl-C
    the trials in flight stay running in the database, and the next call evaluates them again under their numbers. The
    caller closes the runner.
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
        self.finished: dict[int, Trial] = {}  # and not yet told
        self.archs: dict[int, ArchSpec] = {}  # of trials proposed here and not yet told
        self.counts: Counter[str] = Counter()
        self.in_vain = -1  # how many results there were when nothing could be begun in time

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
        """While the study is paused its time stands still, and `fill` begins nothing."""
        now = time.monotonic()
        if self.deadline is not None and self.lease.control == Control.PAUSE:
            self.deadline += now - self.looked_at
        self.looked_at = now
        return Ended(STOPPED, StudyState.STOPPED) if self.lease.control == Control.STOP else None

    def fill(self) -> Ended | None:
        """Keep the runner busy. Returns why there is nothing more to start, None while there may be."""
        while (
            self.lease.control != Control.PAUSE and (room := self.runner.capacity - len(self.in_flight)) > 0
        ):
            if self.deadline is not None and time.monotonic() >= self.deadline:
                return Ended(f"{self.study.max_seconds:g} s are over", StudyState.STOPPED)
            if self.waiting:
                self.begin_again([self.waiting.popleft() for _ in range(min(room, len(self.waiting)))])
                continue
            if self.in_flight and self.in_vain == self.counts.total():
                return None  # until a result changes what can be done in time
            proposed, ended = self.propose(room)
            if proposed:
                self.begin(proposed)
            if ended or not proposed:
                return ended
        return None

    def propose(self, count: int) -> tuple[list[Trial], Ended | None]:
        """Up to `count` new trials, fewer where asking takes time that the workers would wait for."""
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
        """Until the search ends, where that is so near that nothing new should be begun; endless where trials do."""
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
        if not self.runner.through_database:  # else its worker may be alive
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
        """Tell what trial `number` is proposed from; False while one of these results is missing."""
        while self.num_told < number - self.study.lag:
            if self.num_told not in self.finished:
                return False
            trial = self.finished.pop(self.num_told)
            arch = self.archs.pop(trial.number, None)
            self.searcher.tell(observation_of(trial, self.study.objectives, self.searcher.encoding, arch))
            self.num_told += 1
        return True

    def recover(self) -> None:
        """Bring the searcher to where it was: the record proposed and told in the order of the lag rule.

        Proposals are registered without asking again, because asking leaves nothing else behind and can cost
        far more than telling. The last few are asked for all the same: if one differs from the record, then
        so would all that follow, and the study must not go on.
        """
        trials = self.store.trials(self.study)
        saved = self.store.searcher_state(self.study)
        for trial in trials:
            try:
                self.tell_for(trial.number)
                if saved and saved["num_told"] == self.num_told and saved != self.searcher.state():
                    raise ValueError("the searcher arrives at another state")
                self.propose_again(trial, check=trial.number >= len(trials) - max(1, self.study.lag))
            except (SpaceExhausted, ValueError) as error:
                raise UsageError(
                    f"study {self.study.name!r} can't go on: the space, the code or the searcher has changed "
                    f"since it began, first seen at trial {trial.number} ({error}); go on with the version "
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
                raise ValueError(f"it would now be {again.arch.id}, the record says {trial.arch_id}")
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
