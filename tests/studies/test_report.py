"""The rows of a front, and that its picture can be drawn for whatever a study holds."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from searchspace.spec.handmade import ORIGINAL, PLAIN
from studies.records import Objective, Trial
from studies.report import _draw_spread, draw_front, front_rows

OBJECTIVES = (
    Objective("latency", unit="ms"),
    Objective("accuracy", "maximize", "%"),
    Objective("weight_bytes", unit="bytes"),
)
TRIALS = [
    Trial(0, {"d": 0}, "a0", "complete", {"latency": 2.0, "accuracy": 80.0, "weight_bytes": 9.0}),
    Trial(1, {"d": 1}, "a1", "complete", {"latency": 1.0, "accuracy": 70.0, "weight_bytes": 9.0}),
    Trial(2, {"d": 2}, "a2", "complete", {"latency": 3.0, "accuracy": 75.0, "weight_bytes": 5.0}),
    Trial(3, {"d": 3}, "a3", "failed", error="out of memory"),
    Trial(4, {"d": 4}, "a4", "complete", {"latency": 1.0, "accuracy": float("nan"), "weight_bytes": 9.0}),
]


def test_rows_name_trial_architecture_and_the_values_in_their_own_direction() -> None:
    rows = front_rows(TRIALS, OBJECTIVES[:2], {"a1": PLAIN, "a0": ORIGINAL})
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows == [
        {
            "number": 1,
            "arch_id": "a1",
            "arch": {"d": 1},
            "plain": True,
            "kind": "plain",
            "values": {"latency": 1.0, "accuracy": 70.0},
        },
        {
            "number": 0,
            "arch_id": "a0",
            "arch": {"d": 0},
            "plain": True,
            "kind": "original",
            "values": {"latency": 2.0, "accuracy": 80.0},
        },
    ]


@pytest.mark.parametrize("num_objectives", [2, 3])
@pytest.mark.parametrize("num_trials", [0, 1, 5])
def test_a_front_is_drawn_as_a_png(tmp_path: Path, num_objectives: int, num_trials: int) -> None:
    picture = tmp_path / "front.png"
    draw_front(picture, TRIALS[:num_trials], OBJECTIVES[:num_objectives], "a title")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_spread_is_drawn_as_a_bar_through_its_point(tmp_path: Path) -> None:
    """From p10 to p90 along the axis of the objective that was measured, at the other value of the point."""
    drawn: list[tuple[object, object]] = []
    axes = SimpleNamespace(plot=lambda x, y, **style: drawn.append((x, y)))
    _draw_spread(axes, np.array([2.0, 80.0]), [(1.5, 2.75), None])
    _draw_spread(axes, np.array([2.0, 80.0]), [None, (79.0, 81.0)])
    assert drawn == [((1.5, 2.75), [80.0, 80.0]), ([2.0, 2.0], (79.0, 81.0))]
    plain, barred = tmp_path / "plain.png", tmp_path / "barred.png"
    draw_front(plain, TRIALS, OBJECTIVES[:2])
    draw_front(
        barred, TRIALS, OBJECTIVES[:2], spreads={0: {"latency": (1.5, 2.75)}, 9: {"latency": (0.0, 9.0)}}
    )
    assert plain.read_bytes() != barred.read_bytes()


def test_a_single_objective_has_no_front_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or three objectives, got 1: latency"):
        draw_front(tmp_path / "front.png", TRIALS, OBJECTIVES[:1])
