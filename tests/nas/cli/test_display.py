"""What a search shows: on a terminal of 80 columns, and where there is none."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from nas.cli import display as module
from nas.cli.display import Display, formats
from nas.engine import Recovered, TrialFinished
from nas.setup.preparation import Step
from studies.records import Trial
from tests.nas.engine import toy

STEPS = (1, 4000, 9000, 12_000)


def shown(width: int, is_terminal: bool, steps: tuple[int, ...] = STEPS) -> str:
    out = StringIO()
    with Display(console=Console(file=out, width=width, force_terminal=is_terminal)) as display:
        for done in steps:
            display.on_step(
                Step("training the supernet", done, 12_000, "loss 2.345 nats, searching balanced")
            )
    if is_terminal:  # how the bars look by themselves
        out = StringIO()
        Console(file=out, width=width).print(display._render())
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_shows_count_total_elapsed_and_left(width: int) -> None:
    text = shown(width, True, STEPS[:-1])
    for part in ("training the supernet", "9000/12000", "elapsed", "0:00:00", "left"):
        assert part in text
    assert text.count("\n") == 1  # on one line


def test_without_a_terminal_there_are_lines_with_their_times_and_no_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHORTEST_SECONDS", 0.0)
    lines = shown(80, False).splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "4000 of 12000",
        "9000 of 12000",
        "12000 of 12000",
    ]
    assert all("elapsed 0:00:0" in line for line in lines)
    assert ["left" in line for line in lines] == [True, True, False]
    assert "\u2501" not in "".join(lines)


def test_without_a_terminal_quick_steps_are_one_line_each_at_their_start_and_end() -> None:
    lines = shown(80, False, tuple(range(0, 12_001, 100))).splitlines()
    assert len(lines) == 2
    assert "12000 of 12000" in lines[-1]


def test_no_more_time_is_left_than_the_search_is_allowed() -> None:
    """Two of a thousand trials in two seconds promise a quarter of an hour; the budget is a minute and a half."""
    out = StringIO()
    with Display(console=Console(file=out, width=200)) as display:
        display.on_study(replace(toy.study(max_trials=1000), max_seconds=90.0))
        display._advance("searching", 0, 1000, "")
        task = display.progress.tasks[0]
        assert task.start_time is not None
        task.start_time -= 2.0
        display._advance("searching", 2, 1000, "")
        assert module._seconds_left(task) == pytest.approx(88.0, abs=0.5)
        task.fields["allowed"] = None
        assert module._seconds_left(task) == pytest.approx(998.0, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "goes_on", "times"), [(60.0, False, 1), (1e6, False, 0), (60.0, True, 0)]
)
def test_a_time_limit_that_is_short_is_said_once_and_early(seconds: float, goes_on: bool, times: int) -> None:
    """Of a study that goes on, the first trials of this run do not tell what a training takes."""
    out = StringIO()
    study = replace(toy.study(max_trials=1000), max_seconds=seconds, quality="train")
    with Display(console=Console(file=out, width=400)) as display:
        display.on_study(study)
        if goes_on:
            display.on_event(Recovered(1, 0))
        for number in range(module.FEW_JUDGED + 3):
            trial = Trial(number, {}, f"a{number}", "pruned", {"loss": 1.0}, fidelity="eighth")
            display.on_event(TrialFinished(replace(trial, seconds=10.0), {"pruned": number + 1}))
    assert out.getvalue().count("nas resume") == times


def test_a_row_says_which_blocks_have_which_formats() -> None:
    int8 = {"quant": {"roles": {"q": {"weights": "int7", "activations": "uint8"}}}}
    block = {"mixer": {"op": "softmax_attention"}, "ffn": {"op": "mlp", "d_ff": 4}}
    unused = {"mixer": {"op": "none"}, "ffn": {"op": "none"}}
    some, all_used = [block, block | int8, unused], [block | int8, block | int8, unused]
    assert formats({"blocks": [block, unused]}, "onnxruntime") == ""
    assert formats({"blocks": some}, "onnxruntime") == " [int8_onnx: blocks 1]"
    assert formats({"blocks": all_used}, "onnxruntime") == " [int8_onnx: all blocks]"
    assert "int8_onnx, simulated" in formats({"blocks": some}, "eager")
