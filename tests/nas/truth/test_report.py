"""`nas proxies report` as a command: its JSON, its files and its sentences."""

import json
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.files import MARKER
from nas.truth import scores
from nas.truth.readers import read

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))


def test_a_table_of_stored_values_is_judged(capsys: pytest.CaptureFixture[str]):
    path = str(DATA / "nasbench_nlp_excerpt.csv")
    assert main(["proxies", "report", "--table", path, "--draws", "20", "--labels", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] == 220
    assert found["best"]["proxy"]["overall"] == "Layer 1 Hidden Covariance"
    assert found["noise_ceiling"] is None
    taus = {j["name"]: j["overall"]["kendall"] for j in found["judgements"]}
    assert all(t["lower"] <= t["value"] <= t["upper"] for t in taus.values())


def test_networks_are_scored_once_and_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    entries = json.loads((DATA / "nasbench_bert_excerpt.json").read_text())
    small = [e for e in entries if len(e["encoder_layers"]) == 2 and e["hidden_size"] == 128] * 6
    table, out = tmp_path / "table.json", tmp_path / "out"
    table.write_text(json.dumps(small[:6]))
    command = ["proxies", "report", "--table", str(table), "--proxies", "log_synflow", "--draws", "20"]
    assert main([*command, "--out", str(out)]) == 0
    assert "note: every layer is built as softmax attention" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir() if p.name != MARKER) == [
        "agreement.png",
        "report.json",
        "scores.csv",
        "strata.png",
    ]
    done = []
    archs = read(table).archs
    kept = scores.scores(archs, ["log_synflow"], on_network=lambda n, total: done.append((n, total)))
    assert done == [(len(archs), len(archs))]  # all of them are read, none is computed
    assert all(k.value > 0 and not k.reason for k in kept["log_synflow"])


def test_an_unknown_proxy_and_a_wrong_count_are_named(capsys: pytest.CaptureFixture[str]):
    path = str(DATA / "lts_gpt2_excerpt.csv")
    assert main(["proxies", "report", "--table", path, "--proxies", "nothing"]) == 2
    assert "unknown proxy 'nothing'; known:" in capsys.readouterr().err
    assert main(["proxies", "report", "--table", path, "--draws", "3"]) == 2
    assert "--draws 3: give a whole number from 20 to" in capsys.readouterr().err
