"""The workers of a database: each says every few seconds that it is there, and which study it serves."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, insert, select, update

from studies import tables
from studies.records import TrialState
from studies.store import Store

FORGOTTEN_SECONDS = 24 * 3600.0  # after which one that was killed is listed no more

_WORKERS, _TRIALS = tables.workers.c, tables.trials.c


@dataclass(frozen=True)
class Worker:
    """One trial of a worker, or a worker that has none: `study` is "" where it serves none, `trial` then None."""

    name: str
    host: str
    study: str
    trial: int | None
    last_seen_seconds: float


def seen(store: Store, name: str, host: str, study: str) -> None:
    """The worker is there, and serves `study`."""
    now = {"host": host, "study": study, "seen_at": store.clock}
    known = update(tables.workers).where(_WORKERS.name == name).values(now)

    def note(connection: Connection) -> None:
        if connection.execute(known).rowcount == 0:
            connection.execute(insert(tables.workers).values(name=name, **now))
            connection.execute(
                delete(tables.workers).where(_WORKERS.seen_at < store.clock - FORGOTTEN_SECONDS)
            )

    store.write(note)


def gone(store: Store, name: str) -> None:
    """The worker has ended."""
    store.write(lambda c: c.execute(delete(tables.workers).where(_WORKERS.name == name)))


def workers(store: Store) -> list[Worker]:
    """By name, and by trial where one evaluates several."""
    its = and_(_TRIALS.worker == _WORKERS.name, _TRIALS.state == TrialState.RUNNING)
    query = select(
        _WORKERS.name, _WORKERS.host, _WORKERS.study, _TRIALS.number, store.clock - _WORKERS.seen_at
    )
    query = query.outerjoin(tables.trials, its).order_by(_WORKERS.name, _TRIALS.number)
    return [Worker(*row) for row in store.read(lambda c: c.execute(query).all())]
