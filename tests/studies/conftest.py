"""A store on each kind of database; PostgreSQL runs as a private cluster where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from searchspace.spec.workload import Workload
from studies.records import Objective, Study
from studies.store import Store


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the maintenance database of a cluster that lives as long as the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("the programs of PostgreSQL are not installed")
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if user:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [f"{programs}/{program}", "-D", f"{folder}/data", *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    port = _free_port()
    run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
    run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", f"-F -p {port} -h 127.0.0.1 -k {folder}", "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def new_postgres_database(postgres_url: str) -> Callable[[], str]:
    """Makes an empty database and returns its URL."""
    from sqlalchemy import create_engine, text

    numbers = count()
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")

    def create() -> str:
        name = f"nas{next(numbers)}"
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return postgres_url.removesuffix("postgres") + name

    return create


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    new_database: Callable[[], str] = request.getfixturevalue("new_postgres_database")
    return new_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url)) as opened:
        yield opened


@pytest.fixture
def new_study() -> Study:
    """A study with every field filled, not stored yet."""
    latency = Objective(
        "latency", "minimize", "ms", "measured", Workload("decode", 1, 1, 512), "cpu", upper=20.0
    )
    return Study(
        name="tiny",
        space={"name": "tiny-lm", "version": 1, "d_model": [64, 128]},
        objectives=(Objective("accuracy", "maximize", "%", "inherited", lower=0.5), latency),
        searcher="nsga2",
        seed=2**40,
        lag=16,
        max_trials=100,
        max_seconds=3600.0,
        settings={"data": "digits", "steps": 10},
        code_version="1.0",
    )


@pytest.fixture
def study(store: Store, new_study: Study) -> Study:
    return store.create_study(new_study)
