"""`nas studies show`, `nas studies compare` and `nas export`, as a user calls them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nas import engine
from nas.cli.main import main
from nas.execution.local import LocalRunner
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two studies of 40 trials, and one without any."""
    url = f"sqlite:///{tmp_path_factory.mktemp('studies')}/nas.db"
    with closing(Store(url)) as store:
        for name, count in (("first", 40), ("second", 25), ("empty", 0)):
            study = store.create_study(replace(toy.study("random", count, seed=count), name=name))
            engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
    return url


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.err if status == 2 else captured.out


def test_show_answers_how_a_study_went(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "studies", "show", "first", "--db", db, "--json"))
    assert found["trials"] == {"complete": 40}
    assert found["hypervolume"]["trials"] == [10, 20, 40]
    shares = found["hypervolume"]["share_of_last"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [i["objective"] for i in found["importance"]] == ["loss", "cost"]
    text = ask(capsys, "studies", "show", "first", "--db", db)
    assert f"at the knee, trial {found['knee']['trial']}" in text
    assert "importance for cost" in text
    assert "importance of decisions: needs" not in text
    ask(capsys, "studies", "show", "empty", "--db", db, status=1)


def test_compare_answers_which_study_went_better(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "studies", "compare", "first", "second", "--db", db, "--json"))
    assert [s["study"] for s in found["studies"]] == ["first", "second"]
    assert found["at"] == [10, 20, 40]
    assert found["studies"][1]["hypervolume"][2] is None
    text = ask(capsys, "studies", "compare", "first", "second", "--db", db)
    assert "hypervolume after 40 trials" in text
    assert "objectives that both studies have: loss, cost" in text
    assert f"{len(found['studies'][0]['dominated'])}" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("studies", "compare", "first"), "studies compare: name A B, got first"),
        (("studies", "show"), "studies show: name STUDY, got nothing"),
        (("studies", "delete"), "studies delete: name STUDY, got nothing"),
        (("studies", "delete", "third"), "no study 'third'"),
        (("studies", "rename", "first", "second"), "a study named 'second' exists already"),
        (("studies", "rename", "first", "a/b"), "studies rename: a/b"),
        (("studies", "compare", "first", "empty"), "study 'empty' has no complete trial yet"),
        (("studies", "show", "third"), "no study 'third'"),
        (("export", "first", "--out", "x", "--format", "xls"), "--format: unknown 'xls'"),
        (("export", "first", "--out", "/no/such/folder/x"), "--out /no/such/folder/x: the folder"),
        (("worker", "--study", "third"), "no study 'third'"),
        (("worker", "--workers", "0"), "--workers 0: give a whole number from 1"),
        (("worker", "--evaluate", "foo"), "--evaluate foo: name a judge as package.module:function"),
        (("worker", "--evaluate", "os:nothing"), "--evaluate os:nothing: can't be imported"),
        (("worker", "--evaluate", "os:name"), "--evaluate os:name: not a function"),
        (("worker", "--idle", "soon"), "--idle soon: give numbers with s, m, h or d"),
        (("resume", "first", "--address", "h:1"), "--address h:1: only --runner ray has a cluster"),
        (
            ("resume", "first", "--runner", "slurm"),
            "--runner: unknown 'slurm'; known: local, pool, ray, workers",
        ),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(
    db: str, arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ask(capsys, *arguments, "--db", db, status=2)
    assert sentence in error
    assert error.count("\n") == 1


def test_export_writes_each_format_and_nothing_over_a_file(
    db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("csv", "json", "optuna"):
        out = str(tmp_path / name)
        report = json.loads(
            ask(capsys, "export", "second", "--format", name, "--out", out, "--db", db, "--json")
        )
        assert report == {"file": out, "trials": 25, "bytes": Path(out).stat().st_size}
        assert "exists already; add --overwrite" in ask(
            capsys, "export", "second", "--format", name, "--out", out, "--db", db, status=2
        )
    text = ask(capsys, "export", "second", "--format", "optuna", "--out", out, "--overwrite", "--db", db)
    assert f"optuna-dashboard sqlite:///{out}" in text


def test_a_study_is_renamed_and_deleted_unless_somebody_drives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/nas.db"
    with closing(Store(url)) as store:
        study = store.create_study(replace(toy.study("random", 5), name="old"))
        engine.run(study, store, searcher_of(study), LocalRunner(toy.judge, toy.OBJECTIVES))
        assert store.acquire_lease(study, "driver", 60)
        for arguments in (("rename", "old", "new"), ("delete", "old")):
            assert "being worked at" in ask(capsys, "studies", *arguments, "--db", url, status=2)
        store.release_lease(study, "driver")
        ask(capsys, "studies", "rename", "old", "new", "--db", url)
        assert [s.name for s in store.studies()] == ["new"]
        assert json.loads(ask(capsys, "studies", "delete", "new", "--db", url, "--json")) == {
            "deleted": "new",
            "trials": 5,
        }
        assert store.studies() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("studies",),
        ("studies", "show", "x"),
        ("studies", "delete", "x"),
        ("front", "x"),
        ("report", "x"),
        ("export", "x", "--out", "x.csv"),
        ("resume", "x"),
        ("extract", "x", "--knee", "--out", "x"),
        ("solve", "x", "--max", "latency=1"),
        ("train", "x"),
        ("trust", "x"),
        ("worker", "--idle", "1s"),
        ("token", "list"),
    ],
)
def test_only_what_begins_a_study_makes_a_database(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/mistyped.db"
    error = ask(capsys, *arguments, "--db", url, status=2)
    assert url in error
    assert "nas search" in error
    assert list(tmp_path.iterdir()) == []


def test_without_a_database_there_are_no_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_DB", raising=False)
    assert json.loads(ask(capsys, "studies", "--json")) == []
    assert list(tmp_path.iterdir()) == []
