"""`nas.connect`: the shape of `nas.search` and its siblings, over the service."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import nas
from nas import client
from nas.client import Client, _unpack
from nas.errors import NasError, UsageError
from nas.extraction import Selection
from nas.service.views import FRESH_SECONDS
from studies import tokens
from studies.pareto import front
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.service import studies


@pytest.fixture
def connect():
    """`nas.connect`, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(closing(nas.connect(*args)))


def test_what_is_read_over_the_service_is_what_the_database_holds(url, serve, connect):
    lab = connect(serve(url).page)
    there, here = lab.read("toy"), nas.read("toy", db=url)
    assert [replace(t, worker="") for t in there.front] == [replace(t, worker="") for t in here.front]
    assert there.study.objectives == here.study.objectives
    assert [(t.number, t.state, t.values) for t in there.trials] == [
        (t.number, t.state, t.values) for t in here.trials
    ]
    with pytest.raises(UsageError, match="no study 'nowhere'"):
        lab.read("nowhere")
    with pytest.raises(UsageError, match="unknown space"):
        lab.search(space="nowhere", study="s")


def test_the_knee_over_the_service_is_by_what_networks_took(tmp_path, serve, connect):
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        studies.add_three(store)
        lab = connect(serve(url).page)
        assert lab.read("toy").knee.number == 1
        studies.time_second(store)
    time.sleep(FRESH_SECONDS)
    here = nas.read("toy", db=url)
    assert here.latencies == {"a1": 9.5}
    assert here.knee.number != 1
    assert lab.read("toy").latencies == here.latencies
    assert lab.read("toy").knee.number == here.knee.number


def test_a_token_is_sent_and_a_wrong_one_refused(url, serve, connect):
    with closing(Store(url)) as store:
        token = tokens.create(store, "client", "read")
    server = serve(url)
    lab = connect(server.address, token)
    assert lab.call("GET", "about")["scope"] == "read"
    with pytest.raises(UsageError, match="needs a token of scope run"):
        lab.resume("toy", trials=5)
    for address, wrong in ((server.address, "nas_wrong"), (f"{server.address}/?token=nas_wrong", "")):
        with pytest.raises(UsageError, match="unknown or was revoked"):
            nas.connect(address, wrong)
    with pytest.raises(UsageError, match="a token is needed"):
        nas.connect(server.address)
    with pytest.raises(UsageError, match="contains another token"):
        nas.connect(server.page, token)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://[::1", "http://h:99999"]
)
def test_what_is_no_address_is_one_sentence(address):
    with pytest.raises(UsageError, match="give an address such as http://"):
        nas.connect(address)


def test_a_study_that_is_followed_ends_with_the_token_or_the_study_or_the_server(
    tmp_path, serve, connect, monkeypatch
):
    """Each while the stream is open: the first event tells that it is."""
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        token = tokens.create(store, "client", "run")
        store.create_study(toy.study("random", 9, name="s", state="queued", control="run"))
        server = serve(url)
        lab = connect(server.address, token)
        with pytest.raises(UsageError, match="no study 'nowhere'"):
            lab.resume("nowhere")
        with pytest.raises(UsageError, match="no study 'nowhere'"):
            next(lab._studies("nowhere"))
        seen = []

        def revoke(study):
            seen.append(study["state"])
            tokens.revoke(store, "client")

        with pytest.raises(UsageError, match="unknown or was revoked"):
            lab.resume("s", on_event=revoke)
        assert seen == ["queued"]
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(NasError, match="does not answer"):
        connect(server.page).resume("s", on_event=lambda study: server.kill())


@pytest.fixture
def answers() -> Iterator[Callable[..., str]]:
    """Something else than the service: answers everything alike. Gives its address."""
    with ExitStack() as stack:

        def start(status: int, kind: str, body: bytes, **headers: str) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(status)
                    for name, value in {
                        "Content-Type": kind,
                        "Content-Length": str(len(body)),
                        **headers,
                    }.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, args=(0.02,)).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


EVENTS = "text/event-stream"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, "text/html", b"<p>welcome"), "no `nas serve`"),
        ((200, "application/json", b"{}"), "no `nas serve`"),
        ((404, "text/html", b"<p>nothing"), "refused: status 404"),
        ((500, "text/plain", b"oh"), "refused: status 500"),
        ((502, "text/html", b"<p>bad gateway"), "status 502"),
        (
            (503, "application/json", b'{"detail": "the database is not available"}'),
            "the database is not available",
        ),
        ((429, "application/json", b'{"detail": "too many requests"}'), "too many requests"),
        ((200, EVENTS, b"retry: 1\n\n"), "the stream ended"),
        ((200, EVENTS, b""), "the stream ended"),
        ((200, EVENTS, b"event: study\ndata: {\n\n"), "no `nas serve`"),
    ],
)
def test_whatever_answers_instead_of_the_service_is_one_sentence(answers, monkeypatch, answer, said):
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.0)
    address = answers(*answer)
    if answer[1] != EVENTS:
        with pytest.raises(NasError, match=said):
            nas.connect(address)
    with closing(Client(address)) as lab, pytest.raises(NasError, match=said):
        list(lab._studies("s"))


def test_an_address_that_refers_to_another_is_not_followed_with_the_token(answers):
    address = answers(302, "text/plain", b"", Location="https://elsewhere.example/")
    with pytest.raises(UsageError, match="redirects to https://elsewhere"):
        nas.connect(address, "nas_secret")


def test_a_service_that_is_not_there_is_one_sentence():
    with pytest.raises(NasError, match="does not answer"):
        nas.connect("http://127.0.0.1:9")


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trial-0/../../evil.py", "")
    with pytest.raises(UsageError, match="leads out"):
        _unpack(path.read_bytes(), tmp_path / "out")
    assert not (tmp_path / "evil.py").exists()


def test_a_result_shows_its_front_in_a_notebook_with_names_as_text(url):
    result = nas.read("toy", db=url)
    shown = replace(result, study=replace(result.study, name="<script>"))._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert shown.count("<svg") == len(result.front[:: max(1, len(result.front) // 12)])
    assert "data:image/png;base64," in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_and_an_extraction_over_the_service(tmp_path, serve, connect):
    lab = connect(serve(f"sqlite:///{tmp_path}/nas.db", workers=1).page)
    seen: list[str] = []
    result = lab.search(
        space="tiny-vision",
        objectives=["loss", "memory"],
        quality="supernet",
        study="s",
        trials=10,
        training_steps=20,
        on_event=lambda study: seen.append(study["state"]),
    )
    assert seen[-1] == "finished"
    assert result.study.state == "finished"
    assert len(result.trials) == 10
    assert [t.number for t in result.front] == [
        t.number for t in front(lab.read("s").trials, result.study.objectives)
    ]
    assert len(lab.resume("s", trials=5).trials) == 15
    best = lab.read("s").front[0].number
    folder = lab.extract("s", tmp_path / "network", select=Selection(trial=best))
    subprocess.run([sys.executable, str(folder / "run.py")], check=True, capture_output=True, timeout=120)
    with pytest.raises(UsageError, match="not empty"):
        lab.extract("s", tmp_path / "network")
