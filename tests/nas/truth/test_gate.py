"""A proxy gates trials only where it ranks the space's networks better than their size."""

import json
from pathlib import Path
from typing import Any

import pytest

from nas.setup.gate import may_gate


def judgement(name: str, tau: float, gain: tuple[float, float] | None) -> dict[str, Any]:
    estimate = {"value": tau, "lower": tau - 0.1, "upper": tau + 0.1}
    ends = gain and {"value": sum(gain) / 2, "lower": gain[0], "upper": gain[1]}
    return {"name": name, "count": 96, "overall": {"kendall": estimate}, "gain": ends}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        judgement("parameters", 0.32, (0.0, 0.0)),
        judgement("better", 0.6, (0.1, 0.4)),
        judgement("unclear", 0.4, (-0.05, 0.2)),
    ]
    (tmp_path / "tiny-lm").mkdir()
    (tmp_path / "tiny-lm" / "report.json").write_text(json.dumps({"judgements": rows}))
    return tmp_path


def test_a_proxy_that_beats_parameter_count_may_gate(folder: Path):
    assert may_gate("tiny-lm", "better", folder) is None


def test_one_whose_gain_may_be_nothing_is_told_so(folder: Path):
    assert may_gate("tiny-lm", "unclear", folder) == (
        "unclear does not beat parameter count on space tiny-lm: tau 0.40 [0.30, 0.50] against 0.32 [0.22, 0.42] "
        "on 96 networks trained alone"
    )


def test_parameter_count_does_not_beat_itself(folder: Path):
    assert may_gate("tiny-lm", "parameters", folder) is not None


def test_a_space_without_a_table_and_an_unknown_proxy_are_told_so(folder: Path):
    assert "no networks of space other were trained alone" in (may_gate("other", "better", folder) or "")
    assert "it has: better, parameters, unclear" in (may_gate("tiny-lm", "none", folder) or "")
