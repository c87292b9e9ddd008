"""Two studies side by side, on fronts whose hypervolume can be told by counting squares."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from searchspace.spec.workload import Workload
from studies.comparison import MARGIN, checkpoints, compare, reference_point
from studies.records import Objective, Study, Trial

OBJECTIVES = (Objective("loss"), Objective("speed", "maximize"))


def study(name: str, objectives: tuple[Objective, ...] = OBJECTIVES) -> Study:
    return Study(name, {}, objectives, "random", 0, 16, 10)


def trials(*points: tuple[float, float]) -> list[Trial]:
    return [Trial(n, {}, f"a{n}", "complete", {"loss": x, "speed": y}) for n, (x, y) in enumerate(points)]


A = trials((0.0, 0.0), (10.0, 10.0))
B = trials((5.0, 0.0), (0.0, 5.0), (2.0, 9.0), (20.0, 10.0))


def test_hypervolumes_are_shares_of_what_both_reach_from_one_reference() -> None:
    found = compare([study("a"), study("b")], [A, B])
    # fronts: a (0, 0), (10, 10); b (0, 5), (2, 9), (20, 10); so the corner is loss 22, speed -1
    assert found.reference == {"loss": 20 + MARGIN * 20, "speed": 0 - MARGIN * 10}
    whole = 22 * 6 + 20 * 4 + 12 * 1  # (0, 5), (2, 9), (10, 10)
    areas = (22 * 1 + 12 * 10, 22 * 6 + 20 * 4 + 2 * 1)
    assert found.at == [4]
    a, b = found.sides
    assert a.volumes == [None]
    assert b.volumes == pytest.approx([areas[1] / whole])
    shorter = compare([study("a"), study("b")], [A, B[1:3]])
    assert shorter.at == [2]
    assert shorter.sides[0].volumes != [None]
    assert (len(a.front), len(b.front), a.best, b.best) == (
        2,
        3,
        {"loss": 0.0, "speed": 10.0},
        {"loss": 0.0, "speed": 10.0},
    )


def test_the_dominated_are_named_with_what_beats_them() -> None:
    a, b = compare([study("a"), study("b")], [A, B]).sides
    assert a.dominated == {0: 1}
    assert b.dominated == {3: 1}
    assert json.loads(json.dumps(a.to_json()))["dominated"] == [{"trial": 0, "by": 1}]


def test_a_study_beside_itself_is_beaten_nowhere() -> None:
    a, b = compare([study("a"), study("a")], [B, B]).sides
    assert a == b
    assert a.dominated == {}
    assert a.volumes == [1.0]


def test_only_objectives_of_both_are_compared_and_what_differs_is_noted() -> None:
    latency = Objective("latency", unit="ms", device="cpu", workload=Workload())
    other = replace(latency, device="gpu")
    found = compare([study("a", (*OBJECTIVES, latency)), study("b", (OBJECTIVES[0], other))], _with_latency())
    assert [o.name for o in found.objectives] == ["loss", "latency"]
    assert found.notes == ["latency is not the same quantity in both: the device differs"]
    with pytest.raises(ValueError, match=r"'a' \(loss, speed\) and 'b' \(loss\) have no objective in common"):
        compare([study("a"), study("b", (Objective("loss", "maximize"),))], [A, B])
    with pytest.raises(ValueError, match="'b' has no complete trial yet"):
        compare([study("a"), study("b")], [A, []])


def _with_latency() -> list[list[Trial]]:
    return [[replace(t, values=t.values | {"latency": 1.0}) for t in ts] for ts in (A, B)]


def test_a_front_of_one_point_has_a_volume() -> None:
    corner = reference_point([trials((3.0, 4.0))], OBJECTIVES)
    assert corner.tolist() == pytest.approx([3 + MARGIN * 3, -4 + MARGIN * 4])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1]), (10, [10]), (60, [10, 20, 50, 60]), (1000, [10, 20, 50, 100, 200, 500, 1000])],
)
def test_checkpoints_end_at_the_last_trial(count: int, expected: list[int]) -> None:
    assert checkpoints(count) == expected
