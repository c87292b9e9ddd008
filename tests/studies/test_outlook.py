"""How many networks a time limit is for, by closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studies.outlook import EACH, ENOUGH, outlook, short_of_time
from studies.records import Study, Trial

STUDY = Study("mine", {}, (), "guided", 0, 4, 100, max_seconds=600.0, quality="train")


def trial(number: int, arch: str, fidelity: str, end: int, seconds: float) -> Trial:
    at = f"2026-01-01T00:{end // 60:02}:{end % 60:02}+00:00"
    state = "pruned" if fidelity else "complete"
    return Trial(number, {}, arch, state, {"loss": 1.0}, fidelity=fidelity, finished_at=at, seconds=seconds)


# an eighth, then three eighths, then the rest of one training of 80 s, two at a time
CLIMBED = [
    trial(0, "a", "eighth", 10, 10.0),
    trial(1, "b", "eighth", 10, 10.0),
    trial(2, "a", "half", 40, 30.0),
    trial(3, "b", "half", 40, 30.0),
    trial(4, "a", "", 80, 40.0),
    trial(5, "b", "", 80, 40.0),
]


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_training_is_as_long_however_far_the_networks_got(count: int) -> None:
    found = outlook(STUDY, CLIMBED[:count])
    assert found is not None
    assert found.training == pytest.approx(80.0)
    assert found.at_once == pytest.approx(min(count, 2))
    assert found.in_full == max(0, count - 4)
    assert found.expected(600.0) == int(600 * found.at_once / (EACH * 80))


def test_time_between_two_runs_is_nobodys() -> None:
    found = outlook(STUDY, [trial(0, "a", "eighth", 10, 10.0), trial(1, "b", "eighth", 3000, 10.0)])
    assert found is not None
    assert found.at_once == pytest.approx(1.0)


def test_a_short_limit_is_said_with_one_that_is_long_enough() -> None:
    said = short_of_time(STUDY, CLIMBED[:2])
    # ENOUGH trainings, EACH times 80 s, two at a time: 12 min, and 15 rounded up to five
    assert (ENOUGH, EACH) == (12, 1.5)
    assert "about 80 s" in said
    assert "10 networks" in said
    assert "nas resume mine --time 15m" in said
    assert "--training-steps" in said


@pytest.mark.parametrize(
    "study",
    [
        replace(STUDY, max_seconds=None),
        replace(STUDY, quality="supernet"),
        replace(STUDY, max_seconds=3600.0),
    ],
)
def test_nothing_is_said_where_time_is_no_matter(study: Study) -> None:
    assert short_of_time(study, CLIMBED) == ""


def test_failed_trials_say_nothing_of_a_training() -> None:
    failed = replace(trial(0, "a", "", 3, 3.0), state="failed", values={}, error="out of memory")
    assert outlook(STUDY, [failed]) is None
    found = outlook(STUDY, [failed, *CLIMBED])
    assert found is not None
    assert found.training == pytest.approx(80.0)
    assert found.in_full == 2
