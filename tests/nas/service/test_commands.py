"""`nas serve`, `nas token` and `nas report` from the command line."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from nas.cli.main import main
from studies import tokens
from studies.store import Store


def test_a_token_is_made_listed_and_revoked(tmp_path, capsys):
    db = f"sqlite:///{tmp_path}/nas.db"
    assert main(["token", "create", "ana", "--scope", "run", "--expires", "2h", "--db", db, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["token"]
    with closing(Store(db)) as store:
        found = tokens.find(store, made)
        assert found is not None
        assert (found.name, found.scope, found.is_expired) == ("ana", "run", False)
        assert found.expires_at == pytest.approx(time.time() + 7200, abs=60)
    assert main(["token", "list", "--db", db]) == 0
    shown = capsys.readouterr().out
    assert "ana" in shown
    assert made not in shown
    assert main(["token", "revoke", "ana", "--db", db]) == 0
    with closing(Store(db)) as store:
        assert tokens.find(store, made) is None


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
    ],
)
def test_bad_input_is_one_sentence_and_status_2(command, reason, tmp_path, capsys):
    db = f"sqlite:///{tmp_path}/nas.db"
    Store(db).close()
    assert main([*command, "--db", db]) == 2
    assert reason in capsys.readouterr().err


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
