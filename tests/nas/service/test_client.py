"""`nas.connect`: the shape of `nas.search` and its siblings, over the service."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

import nas
from nas.client import _unpack
from nas.errors import NasError, UsageError
from nas.extraction import Selection
from studies import tokens
from studies.pareto import front
from studies.store import Store


@pytest.fixture
def connect():
    """`nas.connect`, closed when the test ends."""
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(closing(nas.connect(*args)))


def test_what_is_read_over_the_service_is_what_the_database_holds(url, serve, connect):
    lab = connect(serve(url).address)
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


def test_a_token_is_sent_and_a_wrong_one_refused(url, serve, connect):
    with closing(Store(url)) as store:
        token = tokens.create(store, "client", "read")
    address = serve(url).address
    lab = connect(address, token)
    assert lab.call("GET", "about")["scope"] == "read"
    with pytest.raises(UsageError, match="needs a token of scope run"):
        lab.resume("toy", trials=5)
    with pytest.raises(UsageError, match="unknown or was revoked"):
        nas.connect(address, "nas_wrong")


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
    lab = connect(serve(f"sqlite:///{tmp_path}/nas.db", workers=1).address)
    seen: list[str] = []
    result = lab.search(
        space="tiny-vision",
        objectives=["loss", "memory"],
        study="s",
        trials=10,
        training_steps=20,
        on_event=lambda study: seen.append(study["status"]),
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
