"""Networks of a front trained by themselves on a real Ray, stopped where they fall behind."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

import nas
from nas.asha import rungs
from nas.cli.main import main
from nas.export.folder import run_alone
from nas.home import home
from nas.request.recipe import load_recipe
from studies.store import Store

STEPS = 16


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    url = f"sqlite:///{tmp_path}/nas.db"
    recipe = load_recipe("tiny-lm").changed(validation_examples=32, quality="proxy")
    nas.search(recipe=recipe, objectives=["log_synflow", "parameters"], study="first", trials=8, db=url)
    return url


def test_rungs_end_with_all_steps() -> None:
    assert [rungs(n) for n in (1600, 16, 3, 1)] == [[100, 400, 1600], [1, 4, 16], [1, 3], [1]]


def test_networks_are_those_of_a_study_that_has_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    nas.search(
        space="tiny-lm", objectives=["x"], evaluate=lambda arch: {"x": 1.0}, study="own", trials=2, db=url
    )
    assert main(["train", "own", "--db", url]) == 2
    assert "judged by a function of yours" in capsys.readouterr().err
    assert main(["train", "own", "--db", url, "--steps", "0"]) == 2
    assert "--steps 0: give a whole number from 1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_is_trained_to_the_end_kept_and_not_trained_again(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "first", "--db", db, "--networks", "3", "--steps", str(STEPS), "--workers", "1"]
    out = tmp_path / "net"
    assert main([*command, "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)["networks"]
    best = found[0]
    assert sorted(map(int, best["losses"])) == rungs(STEPS)
    assert len({f["trial"] for f in found}) == 3
    lengths = [len(f["losses"]) for f in found]
    assert lengths == sorted(lengths, reverse=True)
    with closing(Store(db)) as store:
        kept = store.measurements(subject=best["arch_id"], quantity="loss after training")
    assert sorted(m.value for m in kept) == sorted(best["losses"].values())
    assert run_alone(out)["loss"] == pytest.approx(best["losses"][str(STEPS)], abs=1e-4)
    files = {path: path.stat().st_mtime_ns for path in (home() / "trained").rglob("*.safetensors")}
    assert main([*command, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["networks"]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    known = {f["trial"]: f["losses"] for f in found}
    for f in again:
        for steps, loss in f["losses"].items():
            assert known[f["trial"]].get(steps, loss) == loss
