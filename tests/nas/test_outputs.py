"""What each command writes and what it reads: nothing of the user's is lost, and no study goes on with other data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import nas
from nas.cli.main import main
from nas.request.recipe import Recipe
from nas.truth.build import build
from studies.store import Store
from studies.truth import read_table
from tests.nas.importing.test_folder import tensors, written
from tests.nas.training import toy

TEXT = "abacadae" * 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `work` with text.txt, the database nas.db and its study `s` with a supernet; `theirs`, a model."""
    place = tmp_path_factory.mktemp("made")
    (place / "work").mkdir()
    (place / "work" / "text.txt").write_text(TEXT)
    settings = replace(toy.SETTINGS, steps=2)
    recipe = Recipe(
        "toy", validation_examples=16, batch_size=8, training=settings, trials=3, searcher="random"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place / "work")
        nas.search(
            space=toy.space(),
            recipe=recipe,
            data="text.txt",
            objectives=["loss", "parameters"],
            study="s",
            db=f"sqlite:///{place}/work/nas.db",
            runner="local",
        )
    written(place / "theirs", tensors())
    assert main(["import", str(place / "theirs"), "--out", str(place / "theirs" / "ours")]) == 0
    return place


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, in a folder that is the current one; what is in it is the same afterwards."""
    monkeypatch.chdir(made / "work")
    monkeypatch.setenv("NAS_DB", f"sqlite:///{made}/work/nas.db")
    before = {
        path: path.read_bytes() for path in made.rglob("*") if path.is_file() and ".db" not in path.name
    }
    yield made / "work"
    assert {path: path.read_bytes() for path in before} == before
    with Store(f"sqlite:///{made}/work/nas.db").engine.connect():
        assert len(nas.read("s").trials) == 3


FOLDERS = {
    "extract": ["extract", "s", "--knee"],
    "train": ["train", "s"],
    "solve": ["solve", "s", "--max", "parameters=100000"],
    "import": ["import", "../theirs"],
    "linearize": ["linearize", "../theirs/ours"],
    "proxies": ["proxies", "report", "--table", str(Path("tests/data/nasbench_nlp_excerpt.csv").resolve())],
}
FILES = {
    "export": ["export", "s"],
    "report": ["report", "s"],
}


@pytest.mark.parametrize("command", sorted(FOLDERS))
def test_a_command_leaves_what_is_not_its_own(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for out in (str(mine), ".", "../work", "..", "../theirs"):
        assert main([*FOLDERS[command], "--out", out, "--overwrite"]) == 2, out
        assert f"--out {out}" in capsys.readouterr().err
    assert main([*FOLDERS[command], "--out", str(mine)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [p.read_text() for p in mine.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", sorted(FILES))
def test_a_file_is_replaced_only_where_nas_wrote_it(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").write_text("mine")
    for out in (str(tmp_path / "thesis"), "nas.db", "nas.db-wal", "text.txt", "."):
        assert main([*FILES[command], "--out", out, "--overwrite"]) == 2, out
        assert f"--out {out}" in capsys.readouterr().err
    assert (tmp_path / "thesis").read_text() == "mine"
    ours = [*FILES[command], "--out", str(tmp_path / "made")]
    assert main(ours) == 0
    assert main(ours) == 2
    assert main([*ours, "--overwrite"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"thesis", "made"}


def test_a_picture_is_drawn_again_but_over_nothing_else(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, thesis = tmp_path / "front.png", tmp_path / "thesis.png"
    thesis.write_text("mine")
    for _ in range(2):
        assert main(["front", "s", "--picture", str(ours)]) == 0
    for command in (["front", "s"], ["resume", "s"], ["search", "--space", "tiny-lm"]):
        assert main([*command, "--picture", str(thesis)]) == 2
        assert "--picture" in capsys.readouterr().err
    assert thesis.read_text() == "mine"
    assert ours.read_bytes().startswith(b"\x89PNG")


def test_folders_are_written_again_when_asked(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the two whose work is short; both write through the one function that all use."""
    for name in ("import", "extract"):
        command = [*FOLDERS[name], "--out", str(tmp_path / name), "--json"]
        assert main(command) == 0
        assert main(command) == 2
        assert main([*command, "--overwrite"]) == 0
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert modes == {0o644}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["extract", "import"]
    capsys.readouterr()


def test_a_truth_table_is_not_begun_over_the_users_files(tmp_path: Path) -> None:
    task, space = toy.task(tmp_path), toy.space()
    recipe = Recipe(
        "toy",
        data=task.name,
        validation_examples=16,
        batch_size=8,
        alone=replace(Recipe("toy").alone, steps=1),
    )
    for name, text in (
        ("shard-0.csv", "my,table\n1,2"),
        ("shard-0.json", "{}"),
        ("recipe.toml", "[alone]\nsteps = 9"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises((nas.errors.UsageError, nas.errors.StoreError)):
            build(space, recipe, 2, folder, on_row=lambda *row: None)
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(name, text)]


@pytest.mark.slow
def test_a_truth_table_is_of_one_text(tmp_path: Path) -> None:
    task, space = toy.task(tmp_path), toy.space()
    recipe = Recipe(
        "toy",
        data=task.name,
        validation_examples=16,
        batch_size=8,
        alone=replace(Recipe("toy").alone, steps=1),
    )
    out = tmp_path / "table"
    build(space, recipe, 2, out, workers=1, on_row=lambda *row: None)
    count = len(read_table(out))
    Path(task.name).write_text(TEXT[::-1])
    with pytest.raises(nas.errors.UsageError, match=task.content_id):
        build(space, recipe, 3, out, workers=1, on_row=lambda *row: None)
    assert len(read_table(out)) == count


USES = {
    "resume": ["resume", "s", "--trials", "+1", "--picture", ""],
    "extract": ["extract", "s", "--knee", "--out", "net"],
    "train": ["train", "s", "--out", "net"],
    "solve": ["solve", "s", "--max", "parameters=100000"],
    "trust": ["trust", "s"],
}


@pytest.mark.parametrize("command", sorted(USES))
def test_a_study_does_not_go_on_with_other_data(
    command: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Store(f"sqlite:///{work}/nas.db").study("s").settings.recipe
    assert recipe["data"] == str(work / "text.txt")
    (work / "text.txt").write_text(TEXT[::-1])
    try:
        assert main(USES[command]) == 2
    finally:
        (work / "text.txt").write_text(TEXT)
    error = capsys.readouterr().err
    assert str(work / "text.txt") in error
    assert recipe["data_id"] in error
    assert not Path("net").exists()
    assert Store(f"sqlite:///{work}/nas.db").study("s").max_trials == 3


def test_a_study_without_ids_is_checked_by_its_supernet_and_else_goes_on(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(work / "nas.db", tmp_path / "old.db")
    url = f"sqlite:///{tmp_path}/old.db"
    store = Store(url)
    study = store.study("s")
    recipe = {n: v for n, v in study.settings.recipe.items() if n not in ("data_id", "model_id")}
    store.set_references(study, settings=replace(study.settings, recipe=recipe | {"data": "text.txt"}))
    store.close()
    more = ["resume", "s", "--db", url, "--trials", "+1", "--picture", "", "--runner", "local"]
    (work / "text.txt").write_text(TEXT[::-1])
    try:
        assert main(more) == 2
    finally:
        (work / "text.txt").write_text(TEXT)
    assert "content" in capsys.readouterr().err
    assert main(more) == 0
    assert len(nas.read("s", db=url).trials) == 5  # an unknown id is found out when its judge is made


def test_data_that_is_named_by_nothing_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--data", "--model"):
        assert main(["search", "--space", "tiny-lm", option, "", "--print-recipe"]) == 2
        assert f'{option} ""' in capsys.readouterr().err
    with pytest.raises(nas.errors.UsageError, match=r'^data ""'):
        nas.search(space="tiny-lm", data="", db="sqlite:///x.db")
    assert main(["linearize", "../theirs", "--data", "", "--out", "net"]) == 2
    assert '--data ""' in capsys.readouterr().err


def test_an_imported_model_takes_its_tokenizer_along_and_is_refused_when_it_became_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    from tests.nas.importing.test_families import GROUPED
    from tests.nas.importing.test_search import brought_in, text, tokenizer

    monkeypatch.chdir(tmp_path)
    folder, url = brought_in("LlamaForCausalLM", GROUPED, tmp_path), f"sqlite:///{tmp_path}/nas.db"
    data = str(text(tmp_path / "text.txt"))
    goals = ["--objectives", "loss,flops", "--searcher", "random", "--trials", "2", "--runner", "local"]
    goals += ["--quality", "supernet"]  # untrained, it knows less than the frequencies of its tokens
    study = ["--model", str(folder), "--data", data, "--study", "m", "--db", url, "--picture", ""]
    assert main(["search", *study, *goals]) == 0
    assert main(["extract", "m", "--knee", "--out", "cut", "--db", url]) == 0
    for place in (folder, tmp_path / "cut"):
        read = AutoTokenizer.from_pretrained(place)
        assert read("the of and")["input_ids"] == tokenizer().encode("the of and").ids
    recipe = Store(url).study("m").settings.recipe
    arch = json.loads((folder / "arch.json").read_text())
    (folder / "arch.json").write_text(json.dumps(arch))  # the same network in another file
    capsys.readouterr()
    for command in (["resume", "m", "--trials", "+1"], ["extract", "m", "--knee", "--out", "net"]):
        assert main([*command, "--db", url]) == 2
        error = capsys.readouterr().err
        assert recipe["model_id"] in error
        assert str(folder) in error
