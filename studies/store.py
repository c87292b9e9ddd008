"""The database of studies. What is written here is the record; searchers and runners keep nothing of their own.

What a caller may rely on, on SQLite and PostgreSQL alike:
- Every method is one short transaction: when it returns, what it wrote survives the death of the process; when it
  raises, it wrote nothing.
- A finished trial is never changed again, by nobody.
- Numbers that are not finite come back as NaN (`studies.rows`); all other JSON must be strict, else StoreError.
- Any number of processes and threads may use one database. A `Store` may be shared between threads, not across a
  fork.
What a caller owes: only the holder of a study's lease adds, starts and finishes its trials and saves its searcher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    bindparam,
    cast,
    delete,
    extract,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies import rows, tables
from studies.database import clear_errors, for_writing, name_of, open_engine
from studies.errors import StoreError
from studies.records import (
    FINISHED,
    STUDY_STATES,
    TRIAL_STATES,
    Artifact,
    Outcome,
    Study,
    StudySummary,
    Trial,
)

_STUDIES, _TRIALS = tables.studies.c, tables.trials.c
_STUDY_COLUMNS = [_STUDIES[f.name] for f in fields(Study)]
_TRIAL_COLUMNS = [_TRIALS[f.name] for f in fields(Trial)]
_MEASUREMENT_COLUMNS = [tables.measurements.c[f.name] for f in fields(Measurement)]
_ARTIFACT_COLUMNS = [tables.artifacts.c[f.name] for f in fields(Artifact)]

# Built once: SQLAlchemy compiles each of them a single time, which is what keeps the cost of a trial flat.
_THIS_TRIAL = (_TRIALS.study_id == bindparam("of_study"), _TRIALS.number == bindparam("of_number"))
_ADD_TRIAL = insert(tables.trials)
_CHANGE_TRIAL = update(tables.trials).where(*_THIS_TRIAL, _TRIALS.state.not_in(FINISHED))
_GET_TRIAL = select(*_TRIAL_COLUMNS).where(*_THIS_TRIAL)
_CHANGE_STUDY = update(tables.studies).where(_STUDIES.id == bindparam("of_study"))
_ADD_MEASUREMENT = insert(tables.measurements)


class Store:
    """One database, by URL: `sqlite:///path/to/file.db` or `postgresql+psycopg://user@host/database`."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._writer = for_writing(self.engine)
        self._clock: Any = cast(extract("epoch", func.clock_timestamp()), Double)
        if self.engine.dialect.name == "sqlite":
            self._clock = literal_column("(julianday('now') - 2440587.5) * 86400.0")

    def close(self) -> None:
        self.engine.dispose()

    # studies

    def create_study(self, study: Study) -> Study:
        """Store a new study. Returns it with its id and time of creation."""
        row = rows.study_to_row(study)
        try:
            with self._writing() as connection:
                new_id = connection.scalar(insert(tables.studies).returning(_STUDIES.id), row)
        except IntegrityError as error:
            raise StoreError(
                f"study {study.name!r} exists already in {name_of(self.engine)}: go on with "
                f"`nas resume {study.name}`, or choose another name"
            ) from error
        return replace(study, id=new_id, created_at=row["created_at"])

    def study(self, name: str) -> Study:
        with self._reading() as connection:
            row = connection.execute(select(*_STUDY_COLUMNS).where(_STUDIES.name == name)).mappings().first()
            if row:
                return rows.study_from_row(row)
            known = connection.scalars(select(_STUDIES.name).order_by(_STUDIES.name)).all()
        raise StoreError(f"no study {name!r} in {name_of(self.engine)}; known: {', '.join(known) or 'none'}")

    def studies(self) -> list[StudySummary]:
        """All studies in order of creation."""
        count = (
            select(_TRIALS.study_id, _TRIALS.state, func.count().label("num_trials"))
            .group_by(_TRIALS.study_id, _TRIALS.state)
            .subquery()
        )
        line = (_STUDIES.name, _STUDIES.state, _STUDIES.searcher, _STUDIES.space["name"].as_string())
        query = (
            select(*line, _STUDIES.created_at, count.c.state, count.c.num_trials)
            .outerjoin(count, count.c.study_id == _STUDIES.id)
            .order_by(_STUDIES.id)
        )
        with self._reading() as connection:
            found = connection.execute(query).all()
        return [
            StudySummary(
                name, state, searcher, space, _all_states(row[5:] for row in group if row[5]), created_at
            )
            for (name, state, searcher, space, created_at), group in groupby(found, key=lambda row: row[:5])
        ]

    def set_study_state(self, study: Study, state: str) -> Study:
        if state not in STUDY_STATES:
            raise StoreError(f"unknown study state {state!r}; known: {', '.join(STUDY_STATES)}")
        return self._change_study(study, state=state)

    def update_budget(self, study: Study, max_trials: int, max_seconds: float | None) -> Study:
        return self._change_study(study, max_trials=max_trials, max_seconds=max_seconds)

    def set_references(self, study: Study, supernet: str | None = None, profile: str | None = None) -> Study:
        """Note the content ids of what the study is judged with; None leaves one as it is."""
        given = {"supernet": supernet, "profile": profile}
        return self._change_study(study, **{n: v for n, v in given.items() if v is not None})

    # trials

    def add_trial(self, study: Study, trial: Trial) -> None:
        row = rows.trial_to_row(_id_of(study), trial)
        try:
            with self._writing() as connection:
                connection.execute(_ADD_TRIAL, row)
        except IntegrityError as error:
            raise StoreError(
                f"trial {trial.number} of study {study.name!r} exists already; the next free number is right"
            ) from error

    def start_trial(self, study: Study, number: int, worker: str) -> None:
        """Waiting to running. A trial that is running starts over: its worker died."""
        time = rows.now()
        with self._writing() as connection:
            started = {"state": "running", "worker": worker, "started_at": time, "heartbeat_at": time}
            self._change_trial(connection, study, number, started)

    def finish_trial(self, study: Study, outcome: Outcome) -> None:
        """Write the outcome of an unfinished trial; a second outcome for the same trial is an error."""
        with self._writing() as connection:
            self._change_trial(connection, study, outcome.number, _finished(outcome))

    def finish_and_tell(
        self,
        study: Study,
        outcome: Outcome,
        searcher_state: dict[str, Any] | None,
        measurements: Sequence[Measurement] = (),
    ) -> None:
        """Outcome, measurements and the searcher's state after all it was told by now, all of them or none.

        The searcher may be told before this call: a process that dies in between loses both memory and record of it.
        """
        with self._writing() as connection:
            self._change_trial(connection, study, outcome.number, _finished(outcome))
            _add_measurements(connection, measurements)
            _save_searcher(connection, study, searcher_state)

    def trial(self, study: Study, number: int) -> Trial:
        with self._reading() as connection:
            row = connection.execute(_GET_TRIAL, _trial_key(study, number)).mappings().first()
        if row is None:
            raise StoreError(f"study {study.name!r} has no trial {number}")
        return rows.trial_from_row(row)

    def trials(self, study: Study, states: Iterable[str] | None = None, after: int = -1) -> list[Trial]:
        """Trials with a number above `after`, in any of `states` (None: all), ordered by number."""
        query = select(*_TRIAL_COLUMNS).where(_TRIALS.study_id == _id_of(study), _TRIALS.number > after)
        if states is not None:
            query = query.where(_TRIALS.state.in_(tuple(states)))
        with self._reading() as connection:
            found = connection.execute(query.order_by(_TRIALS.number)).mappings().all()
        return [rows.trial_from_row(row) for row in found]

    def count_trials(self, study: Study) -> dict[str, int]:
        """How many trials are in each state, every state named."""
        query = select(_TRIALS.state, func.count()).where(_TRIALS.study_id == _id_of(study))
        with self._reading() as connection:
            return _all_states((state, n) for state, n in connection.execute(query.group_by(_TRIALS.state)))

    # the searcher

    def save_searcher(self, study: Study, state: dict[str, Any] | None) -> None:
        """Replace the searcher's state: a JSON document with its own `version`, or None for replay from trials."""
        with self._writing() as connection:
            _save_searcher(connection, study, state)

    def searcher_state(self, study: Study) -> dict[str, Any] | None:
        with self._reading() as connection:
            state: dict[str, Any] | None = connection.scalar(
                select(_STUDIES.searcher_state).where(_STUDIES.id == _id_of(study))
            )
        return state

    # measurements

    def add_measurements(self, measurements: Sequence[Measurement]) -> None:
        with self._writing() as connection:
            _add_measurements(connection, measurements)

    def measurements(
        self,
        subject: str | None = None,
        quantity: str | None = None,
        device: str | None = None,
        workload: Workload | None = None,
    ) -> list[Measurement]:
        """What was measured by any study, in the order it came in; None does not filter.

        The measurements of a trial are those whose subject is its `arch_id`.
        """
        text = rows.workload_to_text(workload) if workload else None
        given = {"subject": subject, "quantity": quantity, "device": device, "workload": text}
        query = select(*_MEASUREMENT_COLUMNS).order_by(tables.measurements.c.id)
        query = query.filter_by(**{name: value for name, value in given.items() if value is not None})
        with self._reading() as connection:
            found = connection.execute(query).mappings().all()
        return [rows.measurement_from_row(row) for row in found]

    # artifacts

    def add_artifact(self, artifact: Artifact) -> None:
        """Note where an artifact lies; one made again under the same kind and key replaces the old note."""
        columns = tables.artifacts.c
        same = delete(tables.artifacts).where(columns.kind == artifact.kind, columns.key == artifact.key)
        with self._writing() as connection:
            connection.execute(same)
            connection.execute(insert(tables.artifacts), vars(artifact))

    def artifact(self, kind: str, key: str) -> Artifact | None:
        query = select(*_ARTIFACT_COLUMNS).filter_by(kind=kind, key=key)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return Artifact(**row) if row else None

    def artifacts(self) -> list[Artifact]:
        query = select(*_ARTIFACT_COLUMNS).order_by(tables.artifacts.c.kind, tables.artifacts.c.key)
        with self._reading() as connection:
            return [Artifact(**row) for row in connection.execute(query).mappings()]

    # the lease: who may drive a study

    def acquire_lease(self, study: Study, owner: str, seconds: float) -> bool:
        """Take the lease if it is free, expired or already ours. Of several that try at once, one succeeds."""
        free = or_(
            _STUDIES.lease_owner.is_(None),
            _STUDIES.lease_owner == owner,
            _STUDIES.lease_expires_at <= self._clock,
        )
        return self._lease(study, free, lease_owner=owner, lease_expires_at=self._clock + seconds)

    def lease_owner(self, study: Study) -> str | None:
        """Who holds the study's lease, expired or not."""
        with self._reading() as connection:
            return connection.scalar(select(_STUDIES.lease_owner).where(_STUDIES.id == _id_of(study)))

    def renew_lease(self, study: Study, owner: str, seconds: float) -> bool:
        """Prolong our lease; False when another owner has taken it over."""
        return self._lease(study, _STUDIES.lease_owner == owner, lease_expires_at=self._clock + seconds)

    def release_lease(self, study: Study, owner: str) -> bool:
        """Give our lease back; False when it was not ours any more."""
        return self._lease(study, _STUDIES.lease_owner == owner, lease_owner=None, lease_expires_at=None)

    def _lease(self, study: Study, condition: Any, **columns: Any) -> bool:
        statement = update(tables.studies).where(_STUDIES.id == _id_of(study), condition).values(**columns)
        with self._writing() as connection:
            return connection.execute(statement).rowcount == 1

    # shared by the above

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with clear_errors(self.engine), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with clear_errors(self.engine), self._writer.begin() as connection:
            yield connection

    def _change_study(self, study: Study, **columns: Any) -> Study:
        if columns:
            with self._writing() as connection:
                connection.execute(_CHANGE_STUDY, {"of_study": _id_of(study), **columns})
        return replace(study, **columns)

    def _change_trial(
        self, connection: Connection, study: Study, number: int, columns: dict[str, Any]
    ) -> None:
        key = _trial_key(study, number)
        if connection.execute(_CHANGE_TRIAL, key | columns).rowcount == 1:
            return
        row = connection.execute(_GET_TRIAL, key).mappings().first()
        raise StoreError(
            f"study {study.name!r} has no trial {number}"
            if row is None
            else f"trial {number} of study {study.name!r} is {row['state']} already; a finished trial never changes"
        )


def _save_searcher(connection: Connection, study: Study, state: dict[str, Any] | None) -> None:
    connection.execute(_CHANGE_STUDY, {"of_study": _id_of(study), "searcher_state": state})


def _add_measurements(connection: Connection, measurements: Sequence[Measurement]) -> None:
    if measurements:
        connection.execute(_ADD_MEASUREMENT, [rows.measurement_to_row(m) for m in measurements])


def _finished(outcome: Outcome) -> dict[str, Any]:
    if outcome.state not in FINISHED:
        raise StoreError(
            f"trial {outcome.number} can't finish as {outcome.state!r}; known: {', '.join(FINISHED)}"
        )
    return rows.outcome_to_row(outcome)


def _trial_key(study: Study, number: int) -> dict[str, Any]:
    return {"of_study": _id_of(study), "of_number": number}


def _id_of(study: Study) -> int:
    if study.id is None:
        raise StoreError(f"study {study.name!r} has no id; use what `create_study` or `study` returned")
    return study.id


def _all_states(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return dict.fromkeys(TRIAL_STATES, 0) | dict(counts)
