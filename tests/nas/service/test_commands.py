"""`nas serve`, `nas token` and `nas report` from the command line."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import closing

import httpx
import pytest

from nas.cli.main import main
from studies import tokens
from studies.store import Store
from tests.nas.service.conftest import bearer


def test_a_token_is_made_listed_and_revoked(tmp_path, capsys):
    db = f"sqlite:///{tmp_path}/nas.db"
    assert main(["token", "create", "ana", "--scope", "run", "--expires", "2h", "--db", db, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["token"]
    with closing(Store(db)) as store:
        found = tokens.find(store, tokens.digest(made))
        assert found is not None
        assert (found.name, found.scope, found.is_expired) == ("ana", "run", False)
        assert found.expires_at == pytest.approx(time.time() + 7200, abs=60)
    assert main(["token", "list", "--db", db]) == 0
    shown = capsys.readouterr().out
    assert "ana" in shown
    assert made not in shown
    assert main(["token", "revoke", "ana", "--db", db]) == 0
    with closing(Store(db)) as store:
        assert tokens.find(store, tokens.digest(made)) is None


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["token", "create"], "token create: name the token"),
        (["token", "create", "a b"], "can't name a token"),
        (["token", "create", "ana", "--scope", "god"], "unknown scope 'god'; known: read, run, admin"),
        (["token", "create", "ana", "--expires", "soon"], "--expires soon: give numbers with s, m, h or d"),
        (["token", "list", "ana"], "token list: takes no name"),
        (["token", "revoke", "ana"], "no token 'ana'; known: none"),
        (["report", "nowhere"], "no study 'nowhere'"),
        (["serve", "--port", "70000"], "--port 70000"),
        (["serve", "--workers", "-1"], "--workers -1"),
        (["serve", "--host", "nowhere.invalid"], "--host nowhere.invalid: no address of this machine"),
        (["serve", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 8000: can't listen there"),
        (["serve", "--socket", "/nowhere/s"], "--socket /nowhere/s: can't be made"),
        (["serve", "--socket", ""], "--socket '': give the path"),
        (["serve", "--socket", "s", "--port", "9"], "--port 9 and --socket s: give a port or a socket"),
        (["serve", "--no-token"], "--no-token on port 8000: whoever reaches the port is then an admin"),
        (["serve", "--no-token", "please"], "--no-token please: give everyone-is-admin"),
        (["serve", "--host", "0.0.0.0", "--no-token", "everyone-is-admin"], "everybody in that network"),
        (["serve", "--host", "::", "--no-token", "everyone-is-admin"], "everybody in that network"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(command, reason, tmp_path, capsys):
    db = f"sqlite:///{tmp_path}/nas.db"
    Store(db).close()
    assert main([*command, "--db", db]) == 2
    assert reason in capsys.readouterr().err


def test_a_port_in_use_and_a_file_in_the_place_of_a_socket_are_refused_and_left_alone(tmp_path, capsys):
    db = f"sqlite:///{tmp_path}/nas.db"
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--db", db]) == 2
        assert f"--port {port}: can't listen there (Address already in use)" in capsys.readouterr().err
    (tmp_path / "notes").write_text("mine")
    assert main(["serve", "--socket", str(tmp_path / "notes"), "--db", db]) == 2
    assert "can't be made" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_socket_is_opened_by_its_owner_alone_and_asks_for_a_token_unless_told(tmp_path):
    path, db = tmp_path / "s", f"sqlite:///{tmp_path}/nas.db"
    for more, status in (
        (["--no-token"], 200),
        ([], 401),
    ):  # the second start finds what the first left behind
        command = [sys.executable, "-m", "nas.cli.main", "serve", "--db", db, "--socket", str(path), *more]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            said = [server.stderr.readline(), server.stderr.readline()]
            assert any(line.endswith(f" at unix:{path}\n") for line in said)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                address = "http://any.example/api/v1/about"
                assert client.get(address).status_code == status
                if status == 401:
                    token = said[1].rsplit(" ", 1)[1].strip()
                    assert client.get(address, headers=bearer(token)).json()["scope"] == "admin"
                assert client.get(address, headers={"Sec-Fetch-Site": "cross-site"}).status_code in (401, 403)
            assert main(["serve", "--db", db, "--socket", str(path)]) == 2  # in use
            server.kill() if more else server.send_signal(signal.SIGINT)
    assert not path.exists()


def test_a_second_token_of_the_same_name_is_refused(tmp_path, capsys):
    command = ["token", "create", "ana", "--db", f"sqlite:///{tmp_path}/nas.db"]
    assert main(command) == 0
    assert main(command) == 2
    assert "'ana' exists already" in capsys.readouterr().err


def test_a_report_holds_everything_that_it_shows(url, tmp_path, capsys):
    """Nothing is fetched: the policy of the file forbids it, and no address of another place is in its markup."""
    out = tmp_path / "toy.html"
    assert main(["report", "toy", "--db", url, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size
    text = out.read_text()
    assert "default-src 'none'" in text
    head = text[: text.index("<style>")]
    assert "src=" not in head
    assert "href=" not in head
    assert "import " not in text[text.rindex('<script type="module">') :].split("\n", 1)[0]
    held = json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])
    assert len(held["columns"]["number"]) == 60
    assert set(held["networks"]) == {str(n) for n in held["columns"]["front"]}
