"""Studies that workers drive: what each is to do, in which order, and the progress of its driver.

    control   ""      driven by whoever started it, or by nobody
              "run"   workers are to drive it until its budget is spent
              "pause" "stop"   no worker drives it or evaluates its trials
Studies to run are ordered by priority, highest first, then by age, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import or_, select, update

from studies import tables
from studies.errors import StoreError
from studies.records import CONTROLS, STUDY_STATES, Control, Study, StudyState
from studies.rows import storable
from studies.store import Store, id_of

_STUDIES = tables.studies.c
_TO_GO_ON = (StudyState.QUEUED, StudyState.RUNNING, StudyState.STOPPED)


@dataclass(frozen=True)
class Candidate:
    """A study to run; `owner` holds or held its lease, which is free or expired where `is_free`."""

    name: str
    priority: int
    owner: str
    is_free: bool


@dataclass(frozen=True)
class Driver:
    """The holder of a study's lease, and the seconds until it expires, negative once it has expired."""

    owner: str
    seconds_left: float


def change(store: Store, study: Study, **columns: Any) -> Study:
    """Set any of control, priority, state, problem, progress, max_trials; returns the changed study.

    Raises StoreError for an unknown control or state.
    """
    if columns.get("control", Control.NONE) not in CONTROLS:
        raise StoreError(f"unknown control {columns['control']!r}; known: {', '.join(CONTROLS[1:])}")
    if columns.get("state", StudyState.RUNNING) not in STUDY_STATES:
        raise StoreError(f"unknown study state {columns['state']!r}; known: {', '.join(STUDY_STATES)}")
    if "problem" in columns:
        columns["problem"] = storable(columns["problem"])
    if columns:
        statement = update(tables.studies).where(_STUDIES.id == id_of(study)).values(**columns)
        store.write(lambda c: c.execute(statement))
    return replace(study, **columns)


def to_run(store: Store) -> list[Candidate]:
    """Return the studies that workers are to drive, in the order in which to drive them."""
    expired = or_(_STUDIES.lease_owner.is_(None), _STUDIES.lease_expires_at <= store.clock)
    query = (
        select(_STUDIES.name, _STUDIES.priority, _STUDIES.lease_owner, expired)
        .where(_STUDIES.control == Control.RUN, _STUDIES.state.in_(_TO_GO_ON))
        .order_by(_STUDIES.priority.desc(), _STUDIES.id)
    )
    found = store.read(lambda c: c.execute(query).all())
    return [Candidate(name, priority, owner or "", bool(free)) for name, priority, owner, free in found]


def heartbeat(store: Store, study: Study, owner: str, seconds: float, progress: dict[str, Any]) -> str | None:
    """Prolong the lease of `owner` by `seconds` from now and store its progress.

    Returns the study's control; None where another owner has taken over the lease.
    """
    mine = update(tables.studies).where(_STUDIES.id == id_of(study), _STUDIES.lease_owner == owner)
    values = mine.values(lease_expires_at=store.clock + seconds, progress=progress)
    wanted: str | None = store.write(lambda c: c.scalar(values.returning(_STUDIES.control)))
    return wanted


def drivers(store: Store, name: str = "") -> dict[str, Driver]:
    """Return the present or last lease holders by study name, of all studies or of the one named."""
    query = select(_STUDIES.name, _STUDIES.lease_owner, _STUDIES.lease_expires_at - store.clock)
    query = query.where(_STUDIES.lease_owner.is_not(None))
    if name:
        query = query.where(_STUDIES.name == name)
    return {n: Driver(owner, left) for n, owner, left in store.read(lambda c: c.execute(query).all())}
