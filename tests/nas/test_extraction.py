"""Which network of a finished study is cut out: by number, within bounds, or the knee."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.api import Result
from nas.errors import UsageError
from nas.extraction import Selection
from studies.records import Objective, Study, Trial

OBJECTIVES = (Objective("loss"), Objective("latency"), Objective("accuracy", direction="maximize"))


def result() -> Result:
    """Networks from slow and good to fast and bad, and one that failed."""
    values = [(1.0, 9.0, 0.9), (1.2, 5.0, 0.8), (1.5, 3.0, 0.7), (2.5, 2.0, 0.4)]
    trials = [
        Trial(i, {}, str(i), "complete", dict(zip(("loss", "latency", "accuracy"), v, strict=True)))
        for i, v in enumerate(values)
    ]
    failed = Trial(4, {}, "4", "failed", error="it broke")
    study = Study("s", {"name": "x"}, OBJECTIVES, "random", 0, 1, 5)
    return Result(study, [*trials, failed], trials)


@pytest.mark.parametrize(
    ("bounds", "trial"),
    [
        ({"latency": (None, 5.0)}, 1),  # the smallest loss that is fast enough
        ({"loss": (None, 1.6)}, 2),  # the fastest that is good enough
        ({"loss": (None, 1.6), "latency": (None, 8.0)}, 1),  # of those the most accurate
        ({"accuracy": (0.75, None)}, 0),
        ({"loss": (None, 3), "latency": (None, 9), "accuracy": (0.0, None)}, 0),
    ],
)
def test_the_best_within_bounds_is_that_of_the_first_objective_without_one(
    bounds: dict[str, tuple[float | None, float | None]], trial: int
) -> None:
    assert Selection(bounds=bounds).of(result()).number == trial


def test_a_latency_that_was_measured_decides_whether_a_bound_is_kept() -> None:
    known = result()
    goals = (OBJECTIVES[0], replace(OBJECTIVES[1], source="predicted"), OBJECTIVES[2])
    timed = replace(known, study=replace(known.study, objectives=goals), latencies={"1": 5.5, "0": 4.0})
    within = Selection(bounds={"latency": (None, 5.0)})
    assert within.of(known).number == 1
    chosen = within.of(timed)
    assert (chosen.number, chosen.values["latency"]) == (0, 9.0)  # as the study has it
    with pytest.raises(UsageError, match=r"latency from 2 to 5\.5"):
        Selection(bounds={"latency": (None, 1.0)}).of(timed)


def test_bounds_that_nothing_keeps_are_refused_with_what_the_front_has() -> None:
    with pytest.raises(
        UsageError, match="no network of the front keeps the bounds: it has latency from 2 to 9"
    ):
        Selection(bounds={"latency": (None, 1.0)}).of(result())
    with pytest.raises(UsageError, match=r"loss from 1 to 2\.5 and latency from 2 to 9"):
        Selection(bounds={"loss": (None, 1.1), "latency": (None, 3.0)}).of(result())
    with pytest.raises(
        UsageError, match="a bound on memory: the study's objectives are loss, latency, accuracy"
    ):
        Selection(bounds={"memory": (None, 1.0)}).of(result())


def test_a_trial_is_chosen_by_its_number_where_it_has_values() -> None:
    assert Selection(trial=2).of(result()).number == 2
    with pytest.raises(UsageError, match="--trial 4 is failed: it broke"):
        Selection(trial=4).of(result())
    with pytest.raises(UsageError, match="--trial 7: study 's' has trials 0 to 4"):
        Selection(trial=7).of(result())
