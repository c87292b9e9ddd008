"""Servers: the application in this process, and `nas serve` in one of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nas.service.access import Rate
from nas.service.app import create_app
from tests.nas.service import studies

LOCAL = ("127.0.0.1", 50000)
REMOTE = ("203.0.113.7", 50000)
UNLIMITED = Rate(1e9, 1e9)
TOKEN = "nas_of_this_start"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def made_app(url: str, rate: Rate = UNLIMITED) -> FastAPI:
    return create_app(url, rate, token=TOKEN)


def admin(app: FastAPI) -> TestClient:
    """Whoever has the token of this start; in a `with` statement its application ends with it."""
    return TestClient(app, client=LOCAL, base_url="http://127.0.0.1:8000/api/v1/", headers=bearer(TOKEN))


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with one finished study, which no test changes."""
    made = f"sqlite:///{tmp_path_factory.mktemp('service')}/nas.db"
    studies.add(made)
    return made


@pytest.fixture(scope="session")
def app(url: str) -> FastAPI:
    return made_app(url)


@pytest.fixture
def client(app) -> TestClient:
    """The lifespan does not run, so that the application outlives the test."""
    return admin(app)


@pytest.fixture
def stranger(app) -> TestClient:
    """Whoever has no token."""
    return TestClient(app, client=REMOTE, base_url="http://lab.example:8000/api/v1/")


class Server:
    """`nas serve` on a free port, or again on the one that it had; `page` is the address that it prints."""

    def __init__(self, url: str, port: int = 0, workers: int = 0) -> None:
        command = [sys.executable, "-m", "nas.cli.main", "serve", "--db", url, "--port", str(port)]
        self.process = subprocess.Popen(
            [*command, "--workers", str(workers)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert " at http://" in line, line + self.process.stderr.read()
        self.page = line.rsplit(" at ", 1)[1].strip()
        self.address, _, self.token = self.page.partition("/?token=")
        self.port = int(self.address.rsplit(":", 1)[1])

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*args: object, **options: object) -> Server:
        started.append(Server(*args, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Debian's browser; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), None)
    if path is None:
        pytest.skip("no /usr/bin/chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
