"""`nas worker`: evaluates waiting trials of the studies of a database, together with any number of other workers.

It serves one study at a time, since the processes of its pool hold that study's judge. Trials that it can't finish,
because it is stopped or its host is lost, wait for other workers again. It also drives studies queued by the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from nas.errors import StoreError, UsageError
from nas.execution.database import HEARTBEAT_SECONDS
from nas.execution.pool import PoolRunner
from nas.execution.worker import EvaluatorSpec
from nas.setup.plan import judged, own_metrics
from nas.setup.preparation import JUDGE, settings_of
from nas.tasks.metric_names import why_not_permitted
from nas.workers.presence import Presence
from nas.workers.supervisor import Supervisor
from studies.control import to_run
from studies.queue import Queue, studies_with_waiting_trials
from studies.records import Outcome, Study, Trial
from studies.store import Store

LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 2.0
RANK_SECONDS = 0.5


@dataclass(frozen=True)
class Served:
    """A trial's study and outcome, and whether another worker had taken the trial over in the meantime."""

    study: str
    outcome: Outcome
    is_lost: bool


def work(
    store: Store,
    *,
    study: str = "",
    evaluate: str = "",
    workers: int = 1,
    idle_seconds: float | None = None,
    stays: bool = False,
    on_study: Callable[[Study], None] = lambda study: None,
    on_trial: Callable[[Served], None] = lambda served: None,
    on_passed: Callable[[str], None] = lambda reason: None,
) -> int:
    """Evaluate trials of one study, or of all; returns their number after `idle_seconds` without a trial.

    `evaluate` names, as package.module:function, the judge of studies with a user-defined judge. Without it such
    studies are skipped, and `on_passed` is called once for each. Raises UsageError if they are the only work at the
    start, unless `stays` is set.
    """
    count, last = 0, time.monotonic()
    choice = _Choice(store, study, evaluate, on_passed)

    with closing(Presence(store)) as presence, closing(Supervisor(store, study)) as driving:

        def may_leave(served: Study, quiet_seconds: float) -> bool:
            if idle_seconds is not None and quiet_seconds >= idle_seconds and not driving.is_busy:
                return True
            return quiet_seconds >= PATIENCE_SECONDS and choice.next() not in (None, served.name)

        while idle_seconds is None or time.monotonic() - last < idle_seconds:
            name = choice.next()
            if name is None:
                if choice.passed and not (stays or to_run(store)):
                    raise UsageError(choice.passed[0])
                stays = True
                if driving.is_busy:
                    last = time.monotonic()
                time.sleep(LOOK_SECONDS)
                continue
            stays, found = True, store.study(name)
            on_study(found)
            presence.serves(name)
            with closing(_Server(store, found, choice, workers, presence.name)) as server:
                try:
                    count += server.serve(on_trial, partial(may_leave, found))
                except KeyboardInterrupt:
                    store.patience.end()
                    raise
                last = server.last
            presence.serves("")
    return count


class _Choice:
    """Chooses the next study and its judge; studies whose judge this worker lacks are skipped."""

    def __init__(self, store: Store, wanted: str, evaluate: str, on_passed: Callable[[str], None]) -> None:
        self._store, self._wanted, self._evaluate, self._on_passed = store, wanted, evaluate, on_passed
        self._reasons: dict[str, str] = {}  # by study, why it is skipped; "" if this worker can evaluate it
        self.takes_any = bool(evaluate or wanted)

    @property
    def passed(self) -> list[str]:
        """The reasons for skipped studies."""
        return [reason for reason in self._reasons.values() if reason]

    def next(self) -> str | None:
        names = studies_with_waiting_trials(self._store)
        return next((n for n in names if self._wanted in ("", n) and self._can_judge(n)), None)

    def _can_judge(self, name: str) -> bool:
        if self.takes_any:
            return True
        if name not in self._reasons:
            self._reasons[name] = _why_not(self._store.study(name))
            if self._reasons[name]:
                self._on_passed(self._reasons[name])
        return not self._reasons[name]

    def judge(self, study: Study) -> EvaluatorSpec:
        if study.quality != "user":
            if reason := _why_not(study):
                raise UsageError(reason)
            return EvaluatorSpec(JUDGE, settings_of(self._store, study))
        if not self._evaluate:
            raise UsageError(_reason(study.name))
        return EvaluatorSpec(self._evaluate)


def _why_not(study: Study) -> str:
    """Why this worker can't evaluate a study's networks; "" if it can."""
    if study.quality == "user":
        return _reason(study.name)
    reasons = (
        f"study {study.name!r}: {why}" for name in own_metrics(study) if (why := why_not_permitted(name))
    )
    return next(reasons, "")


def _reason(name: str) -> str:
    return (
        f"study {name!r} is judged by a user-defined function: name it with "
        f"--evaluate package.module:function, or serve another study with --study"
    )


class _Server:
    """The pool that serves one study, and the heartbeats of the trials it holds."""

    def __init__(self, store: Store, study: Study, choice: _Choice, workers: int, name: str) -> None:
        self._name, self._study = name, study
        self._queue = Queue(store, study)
        self._pool = PoolRunner(choice.judge(study), judged(study), workers)
        self._yields_to_any = choice.takes_any
        self._claimed: dict[int, Trial] = {}
        self.last = time.monotonic()  # when the last trial ended
        self._next_look, self._is_outranked = 0.0, False
        self._problem: StoreError | None = None
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def serve(self, on_trial: Callable[[Served], None], may_leave: Callable[[float], bool]) -> int:
        """Evaluate trials until `may_leave(seconds without a trial)` or a study of higher priority waits.

        Returns the number of evaluated trials.
        """
        count = 0
        while self._claimed or not (self._outranked() or may_leave(time.monotonic() - self.last)):
            while len(self._claimed) < self._pool.capacity and not self._outranked():
                trial = self._queue.claim(self._name)
                if trial is None:
                    break
                self._claimed[trial.number] = trial
                self._pool.submit(trial)
            if not self._claimed:
                time.sleep(LOOK_SECONDS)
                continue
            for outcome in self._pool.wait(LOOK_SECONDS):
                is_ours = self._queue.deliver(self._name, outcome)
                del self._claimed[outcome.number]
                on_trial(Served(self._study.name, outcome, not is_ours))
                count, self.last = count + 1, time.monotonic()
            if self._problem is not None:
                raise self._problem
        return count

    def _outranked(self) -> bool:
        """Whether a study of higher priority waits; queries the database at most every RANK_SECONDS."""
        if time.monotonic() >= self._next_look:
            self._is_outranked = self._queue.is_outranked(self._yields_to_any)
            self._next_look = time.monotonic() + RANK_SECONDS
        return self._is_outranked

    def close(self) -> None:
        self._closed.set()
        self._pool.close()
        self._heart.join()
        if self._claimed:
            self._queue.give_back(self._name, self._claimed)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            try:
                self._queue.beat(self._name, tuple(self._claimed))
            except StoreError as error:
                self._problem = error
                return
