"""Trials that wait in the database for workers of any host: claimed by one, kept by heartbeats, delivered once.

The driver of the study adds trials as waiting. A worker claims one, says every few seconds that it is still at it, and
writes the outcome itself, so that nothing is lost where the driver is. A claim without heartbeats is that of a dead
worker: its trial waits again, and has failed where that happens MAX_ATTEMPTS times. Of two workers that believe to have
the same trial only the one named in the database can deliver it.
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
    """The trials of one study."""

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._of_study = _TRIALS.study_id == id_of(study)
        self._is_wanted = select(_STUDIES.id).where(_STUDIES.id == id_of(study), _WANTED).exists()
        mine = select(_STUDIES.priority).where(_STUDIES.id == id_of(study)).scalar_subquery()
        self._outranking = select(_STUDIES.id).where(_WAITS, _WANTED, _STUDIES.priority > mine).limit(1)

    def claim(self, worker: str) -> Trial | None:
        """The waiting trial with the lowest number, from now on this worker's; None where none may be begun."""
        free = (
            select(_TRIALS.number)
            .where(self._of_study, _TRIALS.state == TrialState.WAITING, self._is_wanted)
            .order_by(_TRIALS.number)
            .limit(1)
            .with_for_update(skip_locked=True)  # on SQLite the transaction has the write lock
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
        """Whether trials of a study of higher priority wait; without `by_any`, of one that any worker can judge."""
        higher = self._outranking if by_any else self._outranking.where(_STUDIES.quality != "user")
        return self._store.read(lambda c: c.scalar(higher)) is not None

    def beat(self, worker: str, numbers: Iterable[int] | None = None) -> None:
        """Say that the worker is still at these trials, or at all that it began."""
        mine = and_(self._of_study, _claimed_by(worker))
        if numbers is not None:
            mine = and_(mine, _TRIALS.number.in_(tuple(numbers)))
        alive = update(tables.trials).where(mine).values(heartbeat_at=self._store.clock)
        self._store.write(lambda c: c.execute(alive))

    def deliver(self, worker: str, outcome: Outcome) -> bool:
        """Write the outcome of a claimed trial; False where the claim was lost, and another worker has the trial."""
        this = and_(self._of_study, _TRIALS.number == outcome.number)
        finished = rows.outcome_to_row(outcome) | {"worker": worker}
        statement = update(tables.trials).where(this, _claimed_by(worker)).values(finished)
        mine = select(func.count()).where(
            this, _TRIALS.worker == worker, _TRIALS.finished_at == finished["finished_at"]
        )

        def deliver(connection: Connection) -> bool:
            # a second try finds it done where the server went away after the first
            return connection.execute(statement).rowcount == 1 or connection.scalar(mine) == 1

        return self._store.write(deliver)

    def give_back(self, worker: str, numbers: Iterable[int]) -> None:
        """Let the worker's trials wait again, as if it had never claimed them."""
        mine = and_(self._of_study, _TRIALS.number.in_(tuple(numbers)), _claimed_by(worker))
        waiting = {"state": TrialState.WAITING, "worker": "", "attempts": _TRIALS.attempts - 1}
        self._store.write(lambda c: c.execute(update(tables.trials).where(mine).values(waiting)))

    def revive(self, seconds: float) -> None:
        """Let trials wait again whose worker gave no heartbeat for `seconds`; those begun too often have failed."""
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
        """The outcomes of those of the trials that have one."""
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
    """Names, the highest priority first, then in order of creation; paused and stopped studies wait unseen."""
    query = select(_STUDIES.name).where(_WAITS, _WANTED).order_by(_STUDIES.priority.desc(), _STUDIES.id)
    return list(store.read(lambda c: c.scalars(query).all()))


def _claimed_by(worker: str) -> ColumnElement[bool]:
    return and_(_TRIALS.worker == worker, _TRIALS.state == TrialState.RUNNING)
