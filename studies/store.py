"""The database of studies. What is written here is the record; searchers and runners keep nothing of their own.

What a caller may rely on, on SQLite and PostgreSQL alike:
- Every method is one short transaction: when it returns, what it wrote survives the death of the process; when it
  raises, it wrote nothing.
- A finished trial is never changed again, by nobody.
- Numbers that are not finite come back as NaN (`studies.rows`); all other JSON must be strict, else StoreError.
- Any number of processes and threads may use one database. A `Store` may be shared between threads, not across a
  fork.
- A lock, a full disk, a server that restarts cost time: what failed for them is tried again (`studies.patience`).
What a caller owes: only the holder of a study's lease adds, starts and finishes its trials and saves its searcher. Who
names its `owner` is held to that: LeaseLost where the lease is another's. Workers claim trials by `studies.queue`.
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

# Built once: SQLAlchemy compiles each of them a single time, which is what keeps the cost of a trial flat.
_THIS_TRIAL = (_TRIALS.study_id == bindparam("of_study"), _TRIALS.number == bindparam("of_number"))
_ADD_TRIAL = insert(tables.trials)
_UNFINISHED = or_(
    _TRIALS.state == TrialState.WAITING, _TRIALS.state == TrialState.RUNNING
)  # a list would be compiled each time
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
        """Opening is not waited for: a wrong address does not get right."""
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
        """Store a new study. Returns it with its id and time of creation."""
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
        query = select(*_STUDY_COLUMNS).where(_STUDIES.name == name)
        row = self.read(lambda c: c.execute(query).mappings().first())
        if row:
            return rows.study_from_row(row)
        known = self.read(lambda c: c.scalars(select(_STUDIES.name).order_by(_STUDIES.name)).all())
        raise UnknownStudy(
            f"no study {name!r} in {name_of(self.engine)}: {unknown(name, known).partition('; ')[2]}"
        )

    def studies(self) -> list[StudySummary]:
        """All studies in order of creation."""
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
        """Note what the study is judged by and with; None leaves one as it is."""
        named = {"supernet": supernet, "profile": profile, "settings": settings, "objectives": objectives}
        given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        changed = replace(study, **given)
        row = rows.study_to_row(changed)
        self._change_study(study, **{name: row[name] for name in given})
        return changed

    # trials

    def add_trials(self, study: Study, trials: Sequence[Trial], worker: str = "", owner: str = "") -> None:
        """Store new trials, as they are or, where `worker` is named, as begun by it."""
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
                return  # the server went away between committing and saying so
            taken = min(n for n in numbers if self._arch_ids(study, [n]))
            raise StoreError(
                f"trial {taken} of study {study.name!r} exists already; give the next free number"
            ) from error

    def start_trials(self, study: Study, numbers: Sequence[int], worker: str, owner: str = "") -> None:
        """Waiting to running. A trial that is running starts over: its worker died."""
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
        """Outcomes and the searcher's state after all it was told by now, all of them or none.

        A second outcome for the same trial is an error; a state of None leaves what is stored. The searcher may be
        told before this call: a process that dies in between loses both memory and record of it.
        """
        finished = [(o.number, _finished(o)) for o in outcomes]

        def finish(connection: Connection) -> None:
            if owner and searcher_state is not None:  # one statement for both: this is done for every trial
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
        """Trials with a number above `after`, in any of `states` and `numbers` (None: all), ordered by number."""
        query = select(*TRIAL_COLUMNS).where(_TRIALS.study_id == id_of(study), _TRIALS.number > after)
        if states is not None:
            query = query.where(_TRIALS.state.in_(tuple(states)))
        if numbers is not None:
            query = query.where(_TRIALS.number.in_(tuple(numbers)))
        query = query.order_by(_TRIALS.number)
        return [rows.trial_from_row(row) for row in self.read(lambda c: c.execute(query).mappings().all())]

    def results(self, study: Study, after: int = -1) -> list[Trial]:
        """Trials without their architectures, which is most of what there is to read in a large study."""
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
        """What was measured by any study, in the order it came in; None does not filter.

        The measurements of a trial are those whose subject is its `arch_id`.
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
        """Note where an artifact lies; one made again under the same kind and key replaces the old note."""
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

    # the lease: who may drive a study

    def acquire_lease(self, study: Study, owner: str, seconds: float) -> bool:
        """Take the lease if it is free, expired or already ours. Of several that try at once, one succeeds."""
        free = or_(
            _STUDIES.lease_owner.is_(None),
            _STUDIES.lease_owner == owner,
            _STUDIES.lease_expires_at <= self.clock,
        )
        return self._lease(study, free, lease_owner=owner, lease_expires_at=self.clock + seconds)

    def lease_owner(self, study: Study) -> str | None:
        """Who holds the study's lease, expired or not."""
        query = select(_STUDIES.lease_owner).where(_STUDIES.id == id_of(study))
        owner: str | None = self.read(lambda c: c.scalar(query))
        return owner

    def release_lease(self, study: Study, owner: str) -> bool:
        """Give our lease back; False when it was not ours any more."""
        return self._lease(
            study, _STUDIES.lease_owner == owner, lease_owner=None, lease_expires_at=None, progress={}
        )

    def _lease(self, study: Study, condition: Any, **columns: Any) -> bool:
        statement = update(tables.studies).where(_STUDIES.id == id_of(study), condition).values(**columns)
        return self.write(lambda c: c.execute(statement).rowcount) == 1

    # shared by the above, and by `studies.queue`

    def read(self, work: Callable[[Connection], T]) -> T:
        return self._run(work, self.engine)

    def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction; done again where the server went away, so it may not count on being the first."""
        return self._run(work, self._writer)

    def _run(self, work: Callable[[Connection], T], engine: Engine) -> T:
        def attempt() -> T:
            with clear_errors(engine), engine.begin() as connection:
                return work(connection)

        return self.patience.retry(attempt)

    def _fence(self, connection: Connection, study: Study, owner: str) -> None:
        """Keeps a driver that slept through the end of its lease from writing beside the one that took over."""
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
            return  # the server went away between committing and saying so
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
    if study.id is None:
        raise StoreError(f"study {study.name!r} has no id; use what `create_study` or `study` returned")
    return study.id
