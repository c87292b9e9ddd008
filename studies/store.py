"""The database of studies. It is the only record; searchers and runners keep no state of their own.

Guarantees, on SQLite and PostgreSQL alike:
- Every method is one short transaction: when it returns, its writes survive the death of the process; when it raises,
  it wrote nothing.
- A finished trial never changes again.
- Numbers that are not finite are read as NaN (`studies.rows`); all other JSON must be strict, else StoreError.
- Any number of processes and threads may use one database. A `Store` may be shared between threads, but not across a
  fork.
- Failures from a lock, a full disk or a restarting server are retried (`studies.patience`).
Obligations: only the holder of a study's lease adds, starts and finishes its trials and saves its searcher. A caller
that passes its `owner` is checked: LeaseLost where another owner has the lease. Workers claim trials by
`studies.queue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Connection,
    Double,
    Engine,
    String,
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
from searchspace.spec.reading import unknown
from searchspace.spec.workload import Workload
from studies import rows, tables
from studies.database import clear_errors, for_writing, name_of, open_engine
from studies.errors import LeaseLost, StoreError, StudyExists, UnknownStudy
from studies.patience import Patience
from studies.records import (
    FINISHED,
    STUDY_STATES,
    TRIAL_STATES,
    Artifact,
    Objective,
    Outcome,
    Study,
    StudySummary,
    Trial,
    TrialState,
)
from studies.settings import Settings

T = TypeVar("T")

_STUDIES, _TRIALS = tables.studies.c, tables.trials.c
_STUDY_COLUMNS = [_STUDIES[f.name] for f in fields(Study)]
TRIAL_COLUMNS = [_TRIALS[f.name] for f in fields(Trial)]
_RESULT_COLUMNS = [
    cast(column, String) if isinstance(column.type, JSON) else column
    for column in (_TRIALS[name] for name in rows.RESULT_FIELDS)
]
_MEASUREMENT_COLUMNS = [tables.measurements.c[f.name] for f in fields(Measurement)]
_ARTIFACT_COLUMNS = [tables.artifacts.c[f.name] for f in fields(Artifact)]

# Built once, because SQLAlchemy then compiles each statement once, which keeps the cost per trial constant.
_THIS_TRIAL = (_TRIALS.study_id == bindparam("of_study"), _TRIALS.number == bindparam("of_number"))
_ADD_TRIAL = insert(tables.trials)
_UNFINISHED = or_(
    _TRIALS.state == TrialState.WAITING, _TRIALS.state == TrialState.RUNNING
)  # a list would be compiled on every use
_CHANGE_TRIAL = update(tables.trials).where(*_THIS_TRIAL, _UNFINISHED)
_GET_TRIAL = select(*TRIAL_COLUMNS).where(*_THIS_TRIAL)
_GET_FINISHED = select(_TRIALS.state, _TRIALS.finished_at).where(*_THIS_TRIAL)
_GET_OWNER = (
    select(_STUDIES.lease_owner).where(_STUDIES.id == bindparam("of_study")).with_for_update(read=True)
)
_CHANGE_STUDY = update(tables.studies).where(_STUDIES.id == bindparam("of_study"))
_SAVE_AS_OWNER = _CHANGE_STUDY.where(_STUDIES.lease_owner == bindparam("of_owner"))
_ADD_MEASUREMENT = insert(tables.measurements)


class Store:
    """One database, by URL: `sqlite:///path/to/file.db` or `postgresql+psycopg://user@host/database`."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        """Opening is not retried, since a wrong address stays wrong."""
        self.patience = patience or Patience()
        self.engine = open_engine(url, self.patience.lock_seconds)
        self._writer = for_writing(self.engine)
        self.clock: Any = cast(extract("epoch", func.clock_timestamp()), Double)
        if self.engine.dialect.name == "sqlite":
            self.clock = literal_column("(julianday('now') - 2440587.5) * 86400.0")

    def close(self) -> None:
        self.engine.dispose()

    # studies

    def create_study(self, study: Study) -> Study:
        """Store a new study and return it with its id and creation time. Raises StudyExists where its name is taken."""
        row = rows.study_to_row(study)
        try:
            statement = insert(tables.studies).returning(_STUDIES.id)
            new_id = self.write(lambda c: c.scalar(statement, row))
        except IntegrityError:
            raise StudyExists(
                f"study {study.name!r} exists already in {name_of(self.engine)}: go on with "
                f"`nas resume {study.name}`, or choose another name"
            ) from None
        return replace(study, id=new_id, created_at=row["created_at"])

    def study(self, name: str) -> Study:
        """Return the study of this name. Raises UnknownStudy."""
        query = select(*_STUDY_COLUMNS).where(_STUDIES.name == name)
        row = self.read(lambda c: c.execute(query).mappings().first())
        if row:
            return rows.study_from_row(row)
        known = self.read(lambda c: c.scalars(select(_STUDIES.name).order_by(_STUDIES.name)).all())
        raise UnknownStudy(
            f"no study {name!r} in {name_of(self.engine)}: {unknown(name, known).partition('; ')[2]}"
        )

    def studies(self) -> list[StudySummary]:
        """Return all studies in order of creation."""
        count = (
            select(_TRIALS.study_id, _TRIALS.state, func.count().label("num_trials"))
            .group_by(_TRIALS.study_id, _TRIALS.state)
            .subquery()
        )
        line = [_STUDIES[n] for n in ("name", "state", "searcher", "created_at", "control", "priority")]
        line += [_STUDIES.max_trials, _STUDIES.progress, _STUDIES.tags, _STUDIES.space["name"].as_string()]
        query = (
            select(*line, count.c.state, count.c.num_trials)
            .outerjoin(count, count.c.study_id == _STUDIES.id)
            .order_by(_STUDIES.id)
        )
        found = self.read(lambda c: c.execute(query).all())
        every = dict.fromkeys(TRIAL_STATES, 0)
        summaries = []
        for row, group in groupby(found, key=lambda row: row[:10]):
            name, state, searcher, created_at, control, priority, max_trials, progress, tags, space = row
            counts = every | dict(counted[10:] for counted in group if counted[10])
            noted = (created_at, control, priority, max_trials, progress, tuple(tags))
            summaries.append(StudySummary(name, state, searcher, space, counts, *noted))
        return summaries

    def set_study_state(self, study: Study, state: str) -> Study:
        """Set the state and return the changed study. Raises StoreError for an unknown state."""
        if state not in STUDY_STATES:
            raise StoreError(f"unknown study state {state!r}; known: {', '.join(STUDY_STATES)}")
        return self._change_study(study, state=state)

    def update_budget(self, study: Study, max_trials: int, max_seconds: float | None) -> Study:
        return self._change_study(study, max_trials=max_trials, max_seconds=max_seconds)

    def set_references(
        self,
        study: Study,
        supernet: str | None = None,
        profile: str | None = None,
        settings: Settings | None = None,
        objectives: tuple[Objective, ...] | None = None,
    ) -> Study:
        """Store what the study is judged by and with (None: unchanged) and return the changed study."""
        named = {"supernet": supernet, "profile": profile, "settings": settings, "objectives": objectives}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        changed = replace(study, **given)
        row = rows.study_to_row(changed)
        self._change_study(study, **{name: row[name] for name in given})
        return changed

    # trials

    def add_trials(self, study: Study, trials: Sequence[Trial], worker: str = "", owner: str = "") -> None:
        """Store new trials, as running where `worker` is named. Raises StoreError for a number that is in use."""
        begun = {"state": TrialState.RUNNING, "worker": worker, "started_at": rows.now()} if worker else {}
        added = [rows.trial_to_row(id_of(study), trial) | begun for trial in trials]

        def add(connection: Connection) -> None:
            self._fence(connection, study, owner)
            connection.execute(_ADD_TRIAL, added)

        try:
            self.write(add)
        except IntegrityError as error:
            numbers = [t.number for t in trials]
            if owner and self._arch_ids(study, numbers) == [t.arch_id for t in trials]:
                return  # the connection was lost after the commit, before its confirmation
            taken = min(n for n in numbers if self._arch_ids(study, [n]))
            raise StoreError(
                f"trial {taken} of study {study.name!r} exists already; give the next free number"
            ) from error

    def start_trials(self, study: Study, numbers: Sequence[int], worker: str, owner: str = "") -> None:
        """Set waiting trials to running; a trial that is already running restarts, because its worker died."""
        started = {
            "state": TrialState.RUNNING,
            "worker": worker,
            "started_at": rows.now(),
            "heartbeat_at": None,
        }

        def start(connection: Connection) -> None:
            self._fence(connection, study, owner)
            for number in numbers:
                self._change_trial(connection, study, number, started)

        self.write(start)

    def finish_trials(
        self,
        study: Study,
        outcomes: Sequence[Outcome],
        searcher_state: dict[str, Any] | None = None,
        owner: str = "",
    ) -> None:
        """Store outcomes and the searcher's state after being told all of them, atomically.

        A second outcome for a trial is an error; a state of None keeps the stored one. The searcher may be told before
        this call: a process that dies in between loses both the searcher's memory and the record.
        """
        finished = [(o.number, _finished(o)) for o in outcomes]

        def finish(connection: Connection) -> None:
            if owner and searcher_state is not None:  # one statement, since this runs for every trial
                row = {"of_study": id_of(study), "of_owner": owner, "searcher_state": searcher_state}
                if connection.execute(_SAVE_AS_OWNER, row).rowcount != 1:
                    raise _lost(study)
            else:
                self._fence(connection, study, owner)
                if searcher_state is not None:
                    row = {"of_study": id_of(study), "searcher_state": searcher_state}
                    connection.execute(_CHANGE_STUDY, row)
            for number, columns in finished:
                self._change_trial(connection, study, number, columns)

        self.write(finish)

    def trial(self, study: Study, number: int) -> Trial:
        """Return one trial. Raises StoreError where the study has no trial of this number."""
        row = self.read(lambda c: c.execute(_GET_TRIAL, _trial_key(study, number)).mappings().first())
        if row is None:
            raise StoreError(f"study {study.name!r} has no trial {number}")
        return rows.trial_from_row(row)

    def trials(
        self,
        study: Study,
        states: Iterable[str] | None = None,
        after: int = -1,
        numbers: Iterable[int] | None = None,
    ) -> list[Trial]:
        """Return trials with a number above `after` and any of `states` and `numbers` (None: all), by number."""
        query = select(*TRIAL_COLUMNS).where(_TRIALS.study_id == id_of(study), _TRIALS.number > after)
        if states is not None:
            query = query.where(_TRIALS.state.in_(tuple(states)))
        if numbers is not None:
            query = query.where(_TRIALS.number.in_(tuple(numbers)))
        query = query.order_by(_TRIALS.number)
        return [rows.trial_from_row(row) for row in self.read(lambda c: c.execute(query).mappings().all())]

    def results(self, study: Study, after: int = -1) -> list[Trial]:
        """Return trials without their architectures, which are most of the data of a large study."""
        query = select(*_RESULT_COLUMNS).where(_TRIALS.study_id == id_of(study), _TRIALS.number > after)
        query = query.order_by(_TRIALS.number)
        return rows.results_from_rows(self.read(lambda c: c.execute(query).all()))

    def searcher_state(self, study: Study) -> dict[str, Any] | None:
        query = select(_STUDIES.searcher_state).where(_STUDIES.id == id_of(study))
        state: dict[str, Any] | None = self.read(lambda c: c.scalar(query))
        return state

    # measurements

    def add_measurements(self, measurements: Sequence[Measurement]) -> None:
        added = [rows.measurement_to_row(m) for m in measurements]
        if added:
            self.write(lambda c: c.execute(_ADD_MEASUREMENT, added))

    def measurements(
        self,
        subject: str | None = None,
        quantity: str | None = None,
        device: str | None = None,
        workload: Workload | None = None,
        subjects: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Measurement]:
        """Return the measurements of all studies in the order of insertion; a filter of None matches everything.

        Measurements of a trial have its `arch_id` as subject.
        """
        text = rows.workload_to_text(workload) if workload else None
        given = {"subject": subject, "quantity": quantity, "device": device, "workload": text}
        query = select(*_MEASUREMENT_COLUMNS).order_by(tables.measurements.c.id)
        query = query.filter_by(**{name: value for name, value in given.items() if value is not None})
        if subjects is not None:
            query = query.where(tables.measurements.c.subject.in_(subjects))
        query = query.limit(limit).offset(offset)
        found = self.read(lambda c: c.execute(query).mappings().all())
        return [rows.measurement_from_row(row) for row in found]

    # artifacts

    def add_artifact(self, artifact: Artifact) -> None:
        """Record the path of an artifact, replacing an earlier artifact of the same kind and key."""
        columns = tables.artifacts.c
        same = delete(tables.artifacts).where(columns.kind == artifact.kind, columns.key == artifact.key)

        def add(connection: Connection) -> None:
            connection.execute(same)
            connection.execute(insert(tables.artifacts), vars(artifact))

        self.write(add)

    def artifact(self, kind: str, key: str) -> Artifact | None:
        query = select(*_ARTIFACT_COLUMNS).filter_by(kind=kind, key=key)
        row = self.read(lambda c: c.execute(query).mappings().first())
        return Artifact(**row) if row else None

    def artifacts(self) -> list[Artifact]:
        query = select(*_ARTIFACT_COLUMNS).order_by(tables.artifacts.c.kind, tables.artifacts.c.key)
        return [Artifact(**row) for row in self.read(lambda c: c.execute(query).mappings().all())]

    # the lease: the right to drive a study

    def acquire_lease(self, study: Study, owner: str, seconds: float) -> bool:
        """Take the lease if it is free, expired or held by `owner`; of concurrent calls exactly one succeeds."""
        free = or_(
            _STUDIES.lease_owner.is_(None),
            _STUDIES.lease_owner == owner,
            _STUDIES.lease_expires_at <= self.clock,
        )
        return self._lease(study, free, lease_owner=owner, lease_expires_at=self.clock + seconds)

    def lease_owner(self, study: Study) -> str | None:
        """Return the owner of the study's lease, expired or not."""
        query = select(_STUDIES.lease_owner).where(_STUDIES.id == id_of(study))
        owner: str | None = self.read(lambda c: c.scalar(query))
        return owner

    def release_lease(self, study: Study, owner: str) -> bool:
        """Release the lease. Returns False where `owner` did not hold it any more."""
        return self._lease(
            study, _STUDIES.lease_owner == owner, lease_owner=None, lease_expires_at=None, progress={}
        )

    def _lease(self, study: Study, condition: Any, **columns: Any) -> bool:
        statement = update(tables.studies).where(_STUDIES.id == id_of(study), condition).values(**columns)
        return self.write(lambda c: c.execute(statement).rowcount) == 1

    # shared by the methods above and by `studies.queue`

    def read(self, work: Callable[[Connection], T]) -> T:
        return self._run(work, self.engine)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, again after a lost connection: it may find its own earlier writes."""
        return self._run(work, self._writer)

    def _run(self, work: Callable[[Connection], T], engine: Engine) -> T:
        def attempt() -> T:
            with clear_errors(engine), engine.begin() as connection:
                return work(connection)

        return self.patience.retry(attempt)

    def _fence(self, connection: Connection, study: Study, owner: str) -> None:
        """Raises LeaseLost where the lease expired unnoticed, so that no driver writes next to its successor."""
        if owner and connection.scalar(_GET_OWNER, {"of_study": id_of(study)}) != owner:
            raise _lost(study)

    def _arch_ids(self, study: Study, numbers: Sequence[int]) -> list[str]:
        query = select(_TRIALS.arch_id).where(_TRIALS.study_id == id_of(study), _TRIALS.number.in_(numbers))
        return list(self.read(lambda c: c.scalars(query.order_by(_TRIALS.number)).all()))

    def _change_study(self, study: Study, **columns: Any) -> Study:
        if columns:
            self.write(lambda c: c.execute(_CHANGE_STUDY, {"of_study": id_of(study), **columns}))
        return replace(study, **columns)

    def _change_trial(
        self, connection: Connection, study: Study, number: int, columns: dict[str, Any]
    ) -> None:
        key = _trial_key(study, number)
        if connection.execute(_CHANGE_TRIAL, key | columns).rowcount == 1:
            return
        row = connection.execute(_GET_FINISHED, key).mappings().first()
        if row and row["finished_at"] == columns.get("finished_at") and row["state"] == columns["state"]:
            return  # the connection was lost after the commit, before its confirmation
        raise StoreError(
            f"study {study.name!r} has no trial {number}"
            if row is None
            else f"trial {number} of study {study.name!r} is {row['state']} already; a finished trial never changes"
        )


def _lost(study: Study) -> LeaseLost:
    return LeaseLost(f"study {study.name!r} was taken over by another process")


def _finished(outcome: Outcome) -> dict[str, Any]:
    if outcome.state not in FINISHED:
        raise StoreError(
            f"trial {outcome.number} can't finish as {outcome.state!r}; known: {', '.join(FINISHED)}"
        )
    return rows.outcome_to_row(outcome)


def _trial_key(study: Study, number: int) -> dict[str, Any]:
    return {"of_study": id_of(study), "of_number": number}


def id_of(study: Study) -> int:
    """Return the database id of a stored study. Raises StoreError where it has none."""
    if study.id is None:
        raise StoreError(f"study {study.name!r} has no id; use what `create_study` or `study` returned")
    return study.id
