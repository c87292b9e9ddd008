"""The workers of a database: each reports every few seconds that it runs, and which study it serves."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, insert, select, update

from studies import tables
from studies.records import TrialState
from studies.store import Store

FORGOTTEN_SECONDS = 24 * 3600.0  # after which a killed worker is no longer listed

_WORKERS, _TRIALS = tables.workers.c, tables.trials.c


@dataclass(frozen=True)
class Worker:
    """One trial of a worker, or an idle worker: `study` is "" where it serves none, `trial` is then None."""

    name: str
    host: str
    study: str
    trial: int | None
    last_seen_seconds: float


def seen(store: Store, name: str, host: str, study: str) -> None:
    """Record that the worker is running and serves `study`."""
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
    """Record that the worker has ended."""
    store.write(lambda c: c.execute(delete(tables.workers).where(_WORKERS.name == name)))


def workers(store: Store) -> list[Worker]:
    """Return the workers ordered by name, and by trial where a worker evaluates several."""
    its = and_(_TRIALS.worker == _WORKERS.name, _TRIALS.state == TrialState.RUNNING)
    query = select(
        _WORKERS.name, _WORKERS.host, _WORKERS.study, _TRIALS.number, store.clock - _WORKERS.seen_at
    )
    query = query.outerjoin(tables.trials, its).order_by(_WORKERS.name, _TRIALS.number)
    return [Worker(*row) for row in store.read(lambda c: c.execute(query).all())]
