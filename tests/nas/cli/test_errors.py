"""Bad input: one sentence that names the option, the value and what would be right, and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli.main import main
from studies.store import Store

SPACE = """
name = "mine"
task = "causal_lm"
data = "plays"
d_model = 32
[stem]
op = "token_embedding"
vocab_size = 256
max_len = 16
[head]
op = "lm_head"
vocab_size = 256
[[stages]]
num_blocks = 1
[blocks]
mixer = {mixer}
ffn = {{ op = "mlp", d_ff = {d_ff}, activation = "gelu" }}
"""


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command prints."""
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("nas: ")
    return lines[0]


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/nas.db"


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("--space", "nope", "tiny-lm"),
        ("--study", "a/b", "without a slash"),
        ("--searcher", "nope", "random"),
        ("--quality", "nope", "supernet"),
        ("--objectives", "nope", "loss"),
        ("--objectives", "loss,loss", "once"),
        ("--max", "latency", "latency=2.5"),
        ("--max", "nope=1", "loss"),
        ("--time", "soon", "30m"),
        ("--trials", "0", "from 1"),
        ("--trials", "1e3", "whole number"),
        ("--trials", str(2**70), "whole number"),
        ("--seed", "-1", "at least 0"),
        ("--seed", str(2**64), "below 2^63"),
        ("--workers", "-1", "from 0"),
        ("--gpus-per-worker", "nan", "finite number"),
        ("--time", "0s", "90s"),
        ("--time", "999999999d", "100 years"),
        ("--study", "x" * 81, "80"),
        ("--study", "\U0001f600" * 55, "bytes"),
        ("--study", ".hidden", "dot"),
        ("--study", "tab\tin it", "printable"),
        ("--max", "latency=-1", "greater than 0"),
        ("--max", "memory=0", "greater than 0"),
        ("--max", "loss=-0.5", "at least 0"),
        ("--max", "state_bytes=-1", "at least 0"),
        ("--min", "accuracy=1.1", "at most 1"),
        ("--max", "parameters=10", "16,"),
        ("--max", "loss=nan", "finite"),
        ("--min", "loss=inf", "finite"),
        ("--data", "/no/such/file", "plays"),
        ("--data", "/dev/null", "neither a file nor a folder"),
        ("--device", "tpu", "cpu, cuda"),
        ("--runner", "nope", "local, pool"),
        ("--recipe", "/no/such/file", "TOML"),
        ("--picture", "front.xyz", ".png"),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_what_would_be_right(
    option: str, value: str, right: str, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "--space", "tiny-lm", "--db", db, option, value]
    line = fails(capsys, *arguments)
    assert right in line
    assert repr(value.split("=")[0])[1:-1][:49] in line


def test_contradictory_bounds_are_refused(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "search", "--space", "tiny-lm", "--db", db, "--max", "loss=1", "--min", "loss=2")
    assert "--min, --max" in line
    assert "at least 2, at most 1" in line


def test_a_bound_on_a_quantity_that_is_not_evaluated_is_refused(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--objectives", "loss,memory", "--max", "latency=2"]
    assert "add it to --objectives" in fails(capsys, "search", "--space", "tiny-lm", "--db", db, *arguments)


def test_inherited_quality_is_not_to_be_had_from_proxies(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quality", "proxy", "--objectives", "loss,memory"]
    assert "log_synflow" in fails(capsys, "search", "--space", "tiny-lm", "--db", db, *arguments)


def test_an_unknown_operator_in_a_space_file_is_named(
    tmp_path: Path, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SPACE.format(mixer='["softmax_atention", "none"]', d_ff=64))
    line = fails(capsys, "search", "--space", str(file), "--db", db)
    assert "'softmax_atention'" in line
    assert "softmax_attention" in line


def test_a_space_file_may_leave_the_data_to_its_option(
    tmp_path: Path, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    text = SPACE.format(mixer='"softmax_attention"', d_ff=64)
    file.write_text(text.replace('data = "plays"', ""))
    assert file.read_text() != text
    line = fails(capsys, "search", "--space", str(file), "--db", db)
    assert "--data" in line
    assert "plays" in line
    assert main(["search", "--space", str(file), "--data", "plays", "--print-recipe"]) == 0


def test_an_empty_choice_in_a_space_file_is_named(
    tmp_path: Path, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SPACE.format(mixer='"none"', d_ff="[]"))
    line = fails(capsys, "search", "--space", str(file), "--db", db)
    assert "mlp.d_ff: a choice needs at least one value" in line
    assert line.count(str(file)) == 1


@pytest.mark.parametrize("command", ["resume", "front", "trust"])
def test_an_unknown_study_is_named_with_the_known_ones(
    command: str, db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(db).close()
    assert "no study 'nope'" in fails(capsys, command, "nope", "--db", db)


def test_a_study_name_is_not_used_twice(db: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [
        "search",
        "--space",
        "tiny-lm",
        "--quality",
        "proxy",
        "--objectives",
        "parameters",
        "--trials",
        "3",
    ]
    assert main([*arguments, "--study", "one", "--db", db]) == 0
    capsys.readouterr()
    assert "nas resume one" in fails(capsys, *arguments, "--study", "one", "--db", db)


def test_listings_in_json_are_json(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    Store(db).close()
    for arguments in (["spaces"], ["ops"], ["studies", "--db", db]):
        assert main([*arguments, "--json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), list)


def test_a_search_in_json_prints_json_alone(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--quality",
        "proxy",
        "--objectives",
        "parameters,flops",
        "--trials",
        "5",
        "--searcher",
        "random",
    ]
    picture = db.removeprefix("sqlite:///") + ".png"
    assert main(["search", "--space", "tiny-lm", "--db", db, "--picture", picture, "--json", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["front"][0]["values"].keys() == {"parameters", "flops"}
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
