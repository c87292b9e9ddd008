"""How options are read: durations, numbers, mistyped words, and the forms in which a listing can be asked for."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from nas.cli.arguments import minutes
from nas.cli.main import main
from nas.errors import UsageError
from nas.request.schema import MIN_NETWORKS
from predictors import lookup


def line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 1.5), ("30m", 30), ("2h", 120), ("1.5h", 90), ("1d", 1440), ("1d12h", 2160), ("2h30m", 150)],
)
def test_a_duration_is_read_in_minutes(text: str, expected: float) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1h-30m", "infs", "nanh", "1e3h", "0d", "1 h", "1y"])
def test_what_is_no_duration_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match="2h30m"):
        minutes(text)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["serach"], "search"),
        (["search", "--trails", "5"], "--trials"),
        (["search", "--space", "tiny-ml"], "tiny-lm"),
        (["search", "--space", "tiny-lm", "--max", "latncy=1"], "latency"),
        (["search", "--space", "tiny-lm", "--objectives", "los,memory"], "loss"),
        (["search", "--space", "tiny-lm", "--searcher", "evolutoin"], "evolution"),
        (["search", "--space", "tiny-lm", "--quality", "supernett"], "supernet"),
        (["studies", "shwo", "x"], "show"),
        (["ops", "swigl"], "swiglu"),
        (["ops", "check", "swigl"], "swiglu"),
        (["ops", "--slot", "mixr"], "mixer"),
        (["token", "lst"], "list"),
        (["profile", "--phase", "decod"], "decode"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {meant}?" in line(capsys, *arguments)


@pytest.mark.parametrize("listed", ["ops", "spaces", "devices", "proxies"])
def test_a_listing_is_asked_for_with_and_without_the_word(
    listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([listed, "--json"]) == 0
    alone = capsys.readouterr().out
    assert main([listed, "list", "--json"]) == 0
    assert capsys.readouterr().out == alone


def test_an_operator_is_shown_with_and_without_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "swiglu", "--json"]) == 0
    alone = capsys.readouterr().out
    assert [entry["name"] for entry in json.loads(alone)] == ["swiglu"]
    assert main(["ops", "show", "swiglu", "--json"]) == 0
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    "arguments", [["ops", "list", "mlp"], ["ops", "check"], ["spaces", "check"], ["spaces", "list", "x"]]
)
def test_too_many_or_too_few_names_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert " ".join(arguments[1:]) in line(capsys, *arguments)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == ["nas", version("efficient-transformer-nas")]


def test_more_tokens_than_the_space_has_are_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    found = line(capsys, "profile", "--space", "tiny-lm", "--seq-len", "4096")
    assert "--seq-len 4096" in found
    assert "64" in found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "t.csv", "--seq-len", "64"], "--seq-len is for networks timed on this device"),
        (["--space", "tiny-lm", "--draws", "3"], "--draws needs --table"),
        (["--seed", "3"], "give --space, or --table"),
    ],
)
def test_predictions_of_a_space_and_of_a_table_have_their_own_options(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in line(capsys, "predict", "evaluate", *arguments)


def test_the_least_number_of_networks_is_that_of_the_correction() -> None:
    assert MIN_NETWORKS == lookup.MIN_NETWORKS


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--keep", "mixer=softmax_attention", "--keep", "mixer=none"], ("--keep mixer", "softmax", "none")),
        (["--max", "latency=1", "--max", "latency=2"], ("--max latency", "1", "2")),
        (["--min", "accuracy=.1", "--min", "accuracy=.2"], ("--min accuracy", "0.1", "0.2")),
    ],
)
def test_what_is_given_twice_is_refused_with_both(
    arguments: list[str], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The last would silently take the place of the first."""
    said = line(capsys, "search", "--space", "tiny-lm", *arguments)
    assert all(word in said for word in named)


@pytest.mark.parametrize("option", ["--study", "--db", "--recipe", "--target", "--warm-start", "--space"])
def test_an_empty_text_is_not_taken_for_the_default(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as of a variable that a script has not set."""
    space = [] if option == "--space" else ["--space", "tiny-lm"]
    assert f'{option} ""' in line(capsys, "search", *space, option, "")


def test_a_space_that_there_is_not_is_named_with_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["profile"], ["search"], ["predict", "evaluate"]):
        assert "--space nope: " in line(capsys, *command, "--space", "nope")
