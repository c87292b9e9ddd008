"""What one client can take from the others: connections, streams, bytes; over real connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from nas.service import access, connections, events
from nas.service.connections import Connection
from studies import tokens
from studies.records import Outcome, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service.conftest import TOKEN, admin, bearer, made_app

GET = f"GET /api/v1/about HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n"


@contextmanager
def running(app: FastAPI) -> Iterator[tuple[int, uvicorn.Server]]:
    """As `nas serve` runs it, in a thread. Gives the port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        config = uvicorn.Config(app, http=Connection, log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()


def opened(stack: ExitStack, port: int, sent: str = "") -> socket.socket:
    found = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=30)))
    found.sendall(sent.encode())
    return found


def is_closed(connection: socket.socket) -> bool:
    """Waits until it is, 30 s at most."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "GET /api/v1/about HTTP/1.1\r\nHost: h\r\nX-Slow: ",
        "\r\n",
        GET.replace("GET", "POST").replace("about", "studies") + "Content-Length: 100\r\n\r\n{",
        GET + "\r\n" + "\r\n",
        GET + "\r\n" + GET,
        GET + "\r\n" + GET + "Content-Length: 9\r\n\r\n{",
    ],
    ids=[
        "nothing",
        "half a head",
        "an empty line",
        "half a body",
        "line after",
        "half a head after",
        "half a body after",
    ],
)
def test_a_request_that_does_not_come_in_time_ends_its_connection_and_a_stream_goes_on(
    tmp_path, monkeypatch, sent
):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    app = made_app(f"sqlite:///{tmp_path}/nas.db")
    store: Store = app.state.store
    study = store.create_study(toy.study("random", 1))
    store.add_trials(study, [Trial(0, {"blocks": []}, "a0")], worker="w")
    with running(app) as (port, _), ExitStack() as stack:
        address = f"http://127.0.0.1:{port}/api/v1/studies/toy/events"
        stream = stack.enter_context(httpx.stream("GET", address, headers=bearer(TOKEN), timeout=30))
        lines = stream.iter_lines()
        assert "event: study" in lines
        assert is_closed(opened(stack, port, sent))
        store.finish_trials(study, [Outcome(0, "complete", {"loss": 1.0, "cost": 1.0})])
        assert "event: trials" in lines


def test_half_open_connections_give_way_to_whole_requests(url, monkeypatch):
    monkeypatch.setattr(connections, "MAX_WAITING", 5)
    with running(made_app(url)) as (port, server), ExitStack() as stack:
        half = [opened(stack, port, GET) for _ in range(20)]
        assert all(is_closed(connection) for connection in half[:14])
        whole = opened(stack, port, GET + "Connection: close\r\n\r\n")
        assert whole.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        assert len(server.server_state.connections) <= 6


def test_a_head_without_end_is_not_kept(url):
    with running(made_app(url)) as (port, _), ExitStack() as stack:
        endless = opened(stack, port, GET + "X: ")
        with suppress(ConnectionError):
            for _ in range(1000):
                endless.sendall(b"x" * (1 << 16))
        assert is_closed(endless)


def test_a_client_that_reads_nothing_of_its_answer_is_closed(url, monkeypatch):
    monkeypatch.setattr(connections, "READING_SECONDS", 0.2)
    with running(made_app(url)) as (port, server), ExitStack() as stack:
        found = stack.enter_context(closing(socket.socket()))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.connect(("127.0.0.1", port))
        found.sendall(
            b"GET /vendor/echarts.min.js HTTP/1.1\r\nHost: h\r\n\r\n" * 12
        )  # more than the kernel keeps
        until = time.monotonic() + 60
        while not server.server_state.total_requests or server.server_state.connections:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_token_has_its_share_of_the_streams_and_leaves_the_others_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MAX_STREAMS_OF_CALLER", 2)
    monkeypatch.setattr(events, "MAX_STREAMS", 3)
    app = made_app(f"sqlite:///{tmp_path}/nas.db")
    app.state.store.create_study(toy.study("random", 1))
    other = tokens.create(app.state.store, "other", "read")
    with (
        running(app) as (port, _),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client,
    ):
        address = "studies/toy/events"
        kept = []  # an iterator that is let go of closes its stream
        with ExitStack() as stack:
            for token in (TOKEN, TOKEN, other):
                stream = stack.enter_context(client.stream("GET", address, headers=bearer(token)))
                assert (stream.status_code, stream.headers.get("content-encoding")) == (200, None)
                kept.append(stream.iter_lines())
                next(kept[-1])
            assert client.get(address, headers=bearer(TOKEN)).status_code == 429
            full = client.get(address, headers=bearer(other))
            assert full.status_code == 503
            assert full.headers["retry-after"]
        until = time.monotonic() + 30
        while app.state.streams._open.total():  # those that have gone are counted no more
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("ending", ["expired", "revoked", "deleted"])
def test_a_stream_ends_with_its_token_and_with_its_study(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(access, "KEPT_SECONDS", 0.0)
    app = made_app(f"sqlite:///{tmp_path}/nas.db")
    store: Store = app.state.store
    store.create_study(toy.study("random", 1))
    token = tokens.create(store, "short", "read", 3.0 if ending == "expired" else None)
    with running(app) as (port, _):
        address = f"http://127.0.0.1:{port}/api/v1/studies/toy/events"
        with httpx.stream("GET", address, headers=bearer(token), timeout=30) as stream:
            lines = stream.iter_lines()
            assert "event: study" in lines
            if ending == "revoked":
                tokens.revoke(store, "short")
            if ending == "deleted":
                with store.engine.begin() as connection:
                    connection.exec_driver_sql("DELETE FROM nas_studies")
            assert all(not line.startswith("event") for line in lines)
        assert httpx.get(address, headers=bearer(token)).status_code == (404 if ending == "deleted" else 401)


@pytest.mark.parametrize("table", ["nas_tokens", "nas_studies"])
def test_a_database_that_can_not_be_used_is_not_described_to_clients(tmp_path, caplog, table):
    with admin(made_app(f"sqlite:///{tmp_path}/secret.db")) as client:
        store: Store = client.app.state.store  # type: ignore[attr-defined]
        token = tokens.create(store, "ana", "read")
        with store.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {table}")
        answer = client.get("studies", headers=bearer(token if table == "nas_tokens" else TOKEN))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "the database is not available" in answer.json()["detail"]
        assert "secret" not in answer.text
        assert table not in answer.text
        assert "secret.db" in caplog.text


def test_the_page_and_long_answers_are_sent_packed_where_the_client_takes_that(url, client):
    plain, packed = {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip"}
    charts = "http://127.0.0.1:8000/vendor/echarts.min.js"
    for address in (charts, "studies/toy/results"):
        whole, small = client.get(address, headers=plain), client.get(address, headers=packed)
        assert "content-encoding" not in whole.headers
        assert small.headers["content-encoding"] == "gzip"
        assert int(small.headers["content-length"]) < 0.6 * int(whole.headers["content-length"])
        assert small.content == whole.content
        assert {"accept-encoding"} == {a.headers["vary"].lower() for a in (whole, small)}
    for wanted in (plain, packed):
        tag = client.get(charts, headers=wanted).headers["etag"]
        assert client.get(charts, headers=wanted | {"If-None-Match": tag}).status_code == 304
    assert "content-encoding" not in client.get("about", headers=packed).headers
