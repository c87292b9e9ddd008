"""Opening a database, and what happens to it when a disk fills, a process dies or several write at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, text

from studies import tables
from studies.database import for_writing, migrate, open_engine
from studies.errors import StoreError
from studies.patience import Patience
from studies.queue import Queue
from studies.records import Outcome, Study, Trial
from studies.rows import study_to_row
from studies.store import Store
from studies.tables import REVISIONS, VERSION_TABLE, metadata

MIGRATIONS = Path(sys.modules["studies.tables"].__file__ or "").parent / "migrations"

WRITER = """
import sys
from studies.errors import StoreError
from studies.records import Outcome, Study, Trial
from studies.store import Store

url, first, step, count = sys.argv[1], *map(int, sys.argv[2:])
store = Store(url)
try:
    study = store.create_study(Study("shared", {"name": "s"}, (), "random", 0, 16, 10))
except StoreError:
    study = store.study("shared")
for i in range(count):
    number = first + step * i
    store.add_trials(study, [Trial(number, {"n": number}, f"a{number}")])
    store.start_trials(study, [number], f"writer {first}")
    store.finish_trials(study, [Outcome(number, "complete", {"loss": float(number)})], {"version": 1, "told": i + 1})
    print(number, flush=True)
"""


def start_writer(url: str, first: int, step: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, str(first), str(step), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def fill(store: Store, study: Study, arch: dict[str, str]) -> None:
    for number in range(100):
        store.add_trials(study, [Trial(number, arch, "a")])
        store.finish_trials(study, [Outcome(number, "complete", {"loss": float(number)})])


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def test_migrating_an_empty_database_gives_the_tables(url: str) -> None:
    engine = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
    engine.dispose()


def test_the_named_revisions_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest_first = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(newest_first)) == REVISIONS


def test_a_database_of_the_first_revision_is_migrated_with_all_that_it_holds(
    url: str, new_study: Study
) -> None:
    """`heartbeat_at` was an ISO time on the clock of the driver, which the clock of the database can't continue."""
    engine = open_engine(url)
    with for_writing(engine).begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        migrate(connection, "0001")
    later = ("control", "priority", "problem", "progress", "notes", "tags")
    row = {name: value for name, value in study_to_row(new_study).items() if name not in later}
    with for_writing(engine).begin() as connection:
        study_id = connection.scalar(tables.studies.insert().returning(tables.studies.c.id), row)
        connection.execute(
            text(
                'INSERT INTO nas_trials (study_id, number, arch, arch_id, state, "values", violations, fidelity, '
                "origin, parents, worker, heartbeat_at, error, started_at, finished_at) VALUES (:study_id, 0, :arch, "
                "'a0', 'running', :loss, '{}', '', '', '[]', 'w', '2025-01-01', '', '2025-01-01', '')"
            ),
            {"study_id": study_id, "arch": '{"d":1}', "loss": '{"loss":0.5}'},
        )
    engine.dispose()
    with closing(Store(url)) as store:
        study = store.study(new_study.name)
        assert replace(study, id=None, created_at="") == new_study
        assert store.trials(study) == [
            Trial(0, {"d": 1}, "a0", "running", {"loss": 0.5}, worker="w", started_at="2025-01-01")
        ]
        Queue(store, study).revive(60.0)
        assert store.trial(study, 0).state == "waiting"
        store.finish_trials(study, [Outcome(0, "complete")])
        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            assert compare_metadata(context, metadata) == []


def test_opening_again_keeps_what_is_stored(url: str, new_study: Study) -> None:
    with closing(Store(url)) as store:
        created = store.create_study(new_study)
    with closing(Store(url)) as store:
        assert store.study(new_study.name) == created


def test_a_newer_schema_is_refused_and_left_alone(url: str, new_study: Study) -> None:
    with closing(Store(url)) as store:
        store.create_study(new_study)
        with store.engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'z9'"))
    with pytest.raises(StoreError, match=f"revision 'z9'.*up to '{REVISIONS[-1]}'.*newer version"):
        Store(url)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("runs.db", "write sqlite:///runs.db"),
        ("mysql://localhost/nas", "'mysql' are not supported"),
        ("sqlite://", "keeps nothing"),
        ("sqlite:////no/such/folder/runs.db", "has to exist in a place"),
    ],
)
def test_a_url_that_can_not_be_opened_is_answered_with_what_would_be_right(wrong: str, advice: str) -> None:
    with pytest.raises(StoreError, match=advice):
        Store(wrong)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_bytes(b"not a database " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(sqlite_url(tmp_path))


def test_an_unreachable_server_is_an_error_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="can't be used") as caught:
        Store("postgresql+psycopg://nobody:secret@127.0.0.1:1/nas")
    assert "secret" not in str(caught.value)


def test_sqlite_is_set_up_for_several_writers(tmp_path: Path) -> None:
    with closing(Store(sqlite_url(tmp_path))) as store, store.engine.connect() as connection:
        settings = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in settings]
    assert found == ["wal", 1, 5_000, 1]


def test_the_statements_of_a_trial_never_scan_a_table(tmp_path: Path, new_study: Study) -> None:
    executed: list[tuple[str, Any]] = []
    with closing(Store(sqlite_url(tmp_path))) as store:
        study = store.create_study(new_study)
        event.listen(store.engine, "before_cursor_execute", lambda *a: executed.append((a[2], a[3])))
        store.add_trials(study, [Trial(0, {}, "a0")])
        store.start_trials(study, [0], "w")
        store.finish_trials(study, [Outcome(0, "complete")], {"version": 1})
        store.trial(study, 0)
        store.trials(study, after=0)
        store.results(study)
        store.measurements(subject="a0")
        statements = [(s, p) for s, p in executed if not s.startswith("BEGIN")]
        with store.engine.connect() as connection:
            plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {s}", p).all() for s, p in statements]
    steps = [row[3] for plan in plans for row in plan]
    assert len(statements) == 8
    assert len(steps) >= 7
    assert [step for step in steps if step.startswith("SCAN")] == []


def test_a_full_disk_is_one_clear_sentence_and_the_study_goes_on(tmp_path: Path, new_study: Study) -> None:
    big = {"padding": "x" * 20_000}
    with closing(Store(sqlite_url(tmp_path), Patience(0.0))) as store:
        study = store.create_study(new_study)
        store.engine.dispose()
        event.listen(store.engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 100"))
        with pytest.raises(StoreError, match="full disk: free some space"):
            fill(store, study, big)
        kept = store.trials(study)
    assert 0 < len(kept) <= 100 * 4096 // 20_000
    with closing(Store(sqlite_url(tmp_path))) as store:
        study = store.study(new_study.name)
        assert store.trials(study) == kept
        done = [t for t in kept if t.is_finished]
        assert [t.values for t in done] == [{"loss": float(n)} for n in range(len(done))]
        if len(kept) == len(done):  # it was a new trial that found no space
            store.add_trials(study, [Trial(len(done), big, "a")])
        store.finish_trials(study, [Outcome(len(done), "complete")])
        assert len(store.trials(study, states=["complete"])) == len(done) + 1


def test_a_locked_database_is_one_clear_sentence(tmp_path: Path, new_study: Study) -> None:
    with closing(Store(sqlite_url(tmp_path), Patience(0.0, lock_seconds=0.0))) as store:
        study = store.create_study(new_study)
        with closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked by another process"):
                store.add_trials(study, [Trial(0, {}, "a0")])
            assert store.trials(study) == [], "readers do not wait for a writer"
        store.add_trials(study, [Trial(0, {}, "a0")])


def test_processes_that_write_to_one_database_at_once_lose_nothing(url: str) -> None:
    num_writers, count = 3, 100
    writers = [start_writer(url, first, num_writers, count) for first in range(num_writers)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with closing(Store(url)) as store:
        found = store.trials(store.study("shared"))
    assert [(t.number, t.state, t.values, t.worker) for t in found] == [
        (n, "complete", {"loss": float(n)}, f"writer {n % num_writers}") for n in range(num_writers * count)
    ]


def test_a_killed_writer_leaves_all_that_it_had_finished(tmp_path: Path) -> None:
    writer = start_writer(sqlite_url(tmp_path), 0, 1, 10**6)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(60)]
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=60)
    with closing(Store(sqlite_url(tmp_path))) as store:
        study = store.study("shared")
        complete = store.trials(study, states=("complete",))
        assert [t.number for t in complete[:60]] == reported == list(range(60))
        assert [t.values["loss"] for t in complete] == list(range(len(complete)))
        assert store.searcher_state(study) == {"version": 1, "told": len(complete)}
        assert len(store.trials(study)) - len(complete) in (0, 1)
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_opening_a_current_database_loads_neither_torch_nor_matplotlib_nor_alembic(tmp_path: Path) -> None:
    Store(sqlite_url(tmp_path)).close()
    code = (
        "import sys; from studies.store import Store; Store(sys.argv[1]).studies();"
        "print({'torch', 'matplotlib', 'alembic', 'numpy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, sqlite_url(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
