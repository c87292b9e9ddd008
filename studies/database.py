"""Opens a database: creates the engine, checks the schema, and turns errors into one clear sentence."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StatementError,
)

from studies.errors import StoreError, StoreUnavailable
from studies.tables import REVISIONS, VERSION_TABLE

KNOWN_FORMS = "sqlite:///path/to/file.db or postgresql+psycopg://user@host/database"
_MIGRATION_LOCK = 0x6E6173  # any constant that all clients share
_PASSING_CODES = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,  # raised where the disk is full for SQLite's auxiliary files
    sqlite3.SQLITE_FULL,
)
# connection, conflict with another transaction, resources, lock, server starting or stopping
_PASSING_STATES = ("08", "40", "53", "55P03", "57P")
_READ_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")


def exists(url: str) -> bool:
    """Return whether opening the database would create no file. Raises StoreError for an invalid URL."""
    file = file_of(url)
    return file is None or file.exists()


def must_exist(url: str) -> None:
    """Raises StoreError where the URL names a file that does not exist and that opening would create."""
    if not exists(url):
        raise StoreError(
            f"--db {url}: there is no database of that name; name that of a search, or begin one with `nas search`"
        )


def open_engine(url: str, lock_seconds: float = 5.0) -> Engine:
    """Return an engine on a database with the current schema, after migrating an empty or older database.

    SQLite waits `lock_seconds` for a lock that another process holds. Raises StoreError where the database cannot be
    opened or has a newer schema.
    """
    engine = _create_engine(_parse(url), lock_seconds)
    with clear_errors(engine):
        revision = _read_revision(engine)
    if revision == REVISIONS[-1]:
        return engine
    if revision is not None and revision not in REVISIONS:
        engine.dispose()
        raise StoreError(
            f"database {name_of(engine)} has schema revision {revision!r}, this program knows up to "
            f"{REVISIONS[-1]!r}: use the newer version that wrote it, or another database"
        )
    with clear_errors(engine), for_writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        migrate(connection)
    return engine


def to_json_text(value: Any) -> str:
    """Return strict JSON: PostgreSQL refuses NaN, so SQLite must not get it either. Raises StoreError."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise StoreError(f"only strict JSON without NaN or infinity can be stored: {error}") from error


def migrate(connection: Connection, revision: str = "head") -> None:
    """Migrate the schema to a revision, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def for_writing(engine: Engine) -> Engine:
    """Return the engine with transactions that take SQLite's write lock at once instead of failing to upgrade."""
    return engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")


def name_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


@contextmanager
def clear_errors(engine: Engine) -> Iterator[None]:
    """Context that raises StoreError for failures of the database or driver; constraint violations pass through."""
    try:
        yield
    except IntegrityError:
        raise
    except StatementError as error:
        # ProgrammingError and the like are bugs and keep their traceback
        if type(error) in (OperationalError, DatabaseError):
            kind = StoreUnavailable if _may_pass(error) else StoreError
            raise kind(f"database {name_of(engine)} {_reason(error)}") from error
        if isinstance(error.orig, StoreError):  # from `to_json_text`, wrapped by SQLAlchemy
            raise StoreError(str(error.orig)) from error
        raise


def _may_pass(error: StatementError) -> bool:
    """Whether a retry may succeed: locked, disk full, or a server that is unreachable or overloaded."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if type(error.orig).__module__.startswith("sqlite3"):
        return code is not None and code & 0xFF in _PASSING_CODES
    state = getattr(error.orig, "sqlstate", None)  # absent where the connection itself broke
    return state is None or state.startswith(_PASSING_STATES)


def _reason(error: StatementError) -> str:
    reason = (str(error.orig).splitlines() or ["no reason given"])[0]
    if "disk is full" in reason or getattr(error.orig, "sqlstate", None) == "53100":
        return "is on a full disk: free some space; all that was finished is kept"
    if "is locked" in reason:
        return "is locked by another process: wait for it or end it"
    return f"can't be used ({reason}); it has to exist in a place that can be reached and written"


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite database; None for another database. Raises StoreError for an invalid URL."""
    parsed = _parse(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(f"{url!r} is not the URL of a database; for a file write sqlite:///{url}") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"databases of kind {backend!r} are not supported; use {KNOWN_FORMS}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError(f"{url!r} keeps nothing after the program ends; write sqlite:///path/to/file.db")
    return parsed


def _create_engine(url: URL, lock_seconds: float) -> Engine:
    serializers: dict[str, Any] = {"json_serializer": to_json_text}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": lock_seconds}, **serializers)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(url, connect_args={"connect_timeout": 10}, **serializers)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{url.drivername} needs the package {error.name!r}; pip install 'efficient-transformer-nas[postgres]'"
        ) from error


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # else Python's sqlite3 runs CREATE TABLE outside of transactions
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("sqlite_begin", "BEGIN")
    try:
        connection.connection.driver_connection.execute(begin)  # type: ignore[union-attr]
    except sqlite3.OperationalError as error:
        raise OperationalError(begin, None, error) from error


def _read_revision(engine: Engine) -> str | None:
    """The schema's revision; None where the database has none yet."""
    with engine.connect() as connection:
        try:
            revision: str | None = connection.scalar(_READ_REVISION)
        except (OperationalError, ProgrammingError):
            connection.rollback()
            if inspect(connection).has_table(VERSION_TABLE):
                raise
            return None
    return revision
