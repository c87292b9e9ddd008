"""Trials waiting in the database for workers on any host: claimed by one, kept by heartbeats, delivered once.

The study's driver adds waiting trials. A worker claims one, sends a heartbeat every few seconds, and writes the outcome
itself, so that no outcome is lost when the driver is gone. A claim without heartbeats belongs to a dead worker: its
trial waits again, or fails after MAX_ATTEMPTS attempts. If two workers believe they hold a trial, only the one named in
the database can deliver it.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from studies import rows, tables
from studies.records import FINISHED, Control, Outcome, Study, Trial, TrialState
from studies.store import TRIAL_COLUMNS, Store, id_of

MAX_ATTEMPTS = 2

_TRIALS, _STUDIES = tables.trials.c, tables.studies.c
_WANTED = _STUDIES.control.in_((Control.NONE, Control.RUN))  # neither paused nor stopped
_WAITS = (
    select(_TRIALS.number)
    .where(_TRIALS.study_id == _STUDIES.id, _TRIALS.state == TrialState.WAITING)
    .exists()
)
_OUTCOME_COLUMNS = [
    _TRIALS[name] for name in ("number", "state", "values", "violations", "error", "worker", "seconds")
]


class Queue:
    """The queue of one study's trials."""

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._of_study = _TRIALS.study_id == id_of(study)
        self._is_wanted = select(_STUDIES.id).where(_STUDIES.id == id_of(study), _WANTED).exists()
        mine = select(_STUDIES.priority).where(_STUDIES.id == id_of(study)).scalar_subquery()
        self._outranking = select(_STUDIES.id).where(_WAITS, _WANTED, _STUDIES.priority > mine).limit(1)

    def claim(self, worker: str) -> Trial | None:
        """Claim the waiting trial with the lowest number for this worker; None without one, or while paused."""
        free = (
            select(_TRIALS.number)
            .where(self._of_study, _TRIALS.state == TrialState.WAITING, self._is_wanted)
            .order_by(_TRIALS.number)
            .limit(1)
            .with_for_update(skip_locked=True)  # on SQLite the transaction already holds the write lock
        )
        begun = {
            "state": TrialState.RUNNING,
            "worker": worker,
            "attempts": _TRIALS.attempts + 1,
            "started_at": rows.now(),
            "heartbeat_at": self._store.clock,
        }

        def claim(connection: Connection) -> Trial | None:
            number = connection.scalar(free)
            if number is None:
                return None
            this = and_(self._of_study, _TRIALS.number == number)
            connection.execute(update(tables.trials).where(this).values(begun))
            return rows.trial_from_row(
                connection.execute(select(*TRIAL_COLUMNS).where(this)).mappings().one()
            )

        return self._store.write(claim)

    def is_outranked(self, by_any: bool = True) -> bool:
        """Return whether a study of higher priority has waiting trials; without `by_any`, ones any worker can judge."""
        higher = self._outranking if by_any else self._outranking.where(_STUDIES.quality != "user")
        return self._store.read(lambda c: c.scalar(higher)) is not None

    def beat(self, worker: str, numbers: Iterable[int] | None = None) -> None:
        """Send a heartbeat for these trials of the worker, or for all that it has started (None)."""
        mine = and_(self._of_study, _claimed_by(worker))
        if numbers is not None:
            mine = and_(mine, _TRIALS.number.in_(tuple(numbers)))
        alive = update(tables.trials).where(mine).values(heartbeat_at=self._store.clock)
        self._store.write(lambda c: c.execute(alive))

    def deliver(self, worker: str, outcome: Outcome) -> bool:
        """Write the outcome of a claimed trial. Returns False where the claim was lost to another worker."""
        this = and_(self._of_study, _TRIALS.number == outcome.number)
        finished = rows.outcome_to_row(outcome) | {"worker": worker}
        statement = update(tables.trials).where(this, _claimed_by(worker)).values(finished)
        mine = select(func.count()).where(
            this, _TRIALS.worker == worker, _TRIALS.finished_at == finished["finished_at"]
        )

        def deliver(connection: Connection) -> bool:
            # a retry finds it already done where the connection was lost after the first attempt
            return connection.execute(statement).rowcount == 1 or connection.scalar(mine) == 1

        return self._store.write(deliver)

    def give_back(self, worker: str, numbers: Iterable[int]) -> None:
        """Return the worker's trials to the queue as if it had never claimed them."""
        mine = and_(self._of_study, _TRIALS.number.in_(tuple(numbers)), _claimed_by(worker))
        waiting = {"state": TrialState.WAITING, "worker": "", "attempts": _TRIALS.attempts - 1}
        self._store.write(lambda c: c.execute(update(tables.trials).where(mine).values(waiting)))

    def revive(self, seconds: float) -> None:
        """Return trials to the queue whose worker sent no heartbeat for `seconds`; fail those started too often."""
        silent = and_(
            self._of_study,
            _TRIALS.state == TrialState.RUNNING,
            func.coalesce(_TRIALS.heartbeat_at, 0.0) < self._store.clock - seconds,
        )
        how = f"worker gone: no heartbeat for {seconds:g} s, {MAX_ATTEMPTS} times"
        failed = {"state": TrialState.FAILED, "error": how, "finished_at": rows.now()}
        again = {"state": TrialState.WAITING, "worker": ""}

        def revive(connection: Connection) -> None:
            poison = _TRIALS.attempts >= MAX_ATTEMPTS
            connection.execute(update(tables.trials).where(silent, poison).values(failed))
            connection.execute(update(tables.trials).where(silent).values(again))

        self._store.write(revive)

    def finished(self, numbers: Iterable[int]) -> list[Outcome]:
        """Return the outcomes of those of the trials that are finished."""
        query = select(*_OUTCOME_COLUMNS).where(
            self._of_study, _TRIALS.number.in_(tuple(numbers)), _TRIALS.state.in_(FINISHED)
        )
        found = self._store.read(lambda c: c.execute(query.order_by(_TRIALS.number)).mappings().all())
        return [
            Outcome(
                **{
                    **row,
                    "values": rows.numbers_from_json(row["values"]),
                    "violations": rows.numbers_from_json(row["violations"]),
                }
            )
            for row in found
        ]


def studies_with_waiting_trials(store: Store) -> list[str]:
    """Return study names, highest priority first, then by creation; paused and stopped studies are left out."""
    query = select(_STUDIES.name).where(_WAITS, _WANTED).order_by(_STUDIES.priority.desc(), _STUDIES.id)
    return list(store.read(lambda c: c.scalars(query).all()))


def _claimed_by(worker: str) -> ColumnElement[bool]:
    return and_(_TRIALS.worker == worker, _TRIALS.state == TrialState.RUNNING)
