"""What a search is worth beside the plain networks, by closed form."""

from __future__ import annotations

import pytest

from searchspace.spec.measurement import Measurement
from studies.records import Objective, Study, Trial
from studies.rungs import rung_agreements
from studies.worth import PLAIN, Worth, compromise, plain_ids, worth

OBJECTIVES = (
    Objective("loss", source="trained", unit="nats"),
    Objective("latency", source="predicted", unit="ms"),
)
STUDY = Study("s", {}, OBJECTIVES, "guided", 0, 4, 10)


def trial(
    number: int, loss: float, latency: float, origin: str = "guided", fidelity: str = "", arch: str = ""
) -> Trial:
    state = "pruned" if fidelity else "complete"
    values = {"loss": loss, "latency": latency}
    return Trial(number, {}, arch or f"a{number}", state, values, fidelity=fidelity, origin=origin)


def measured(arch_id: str, value: float, p10: float, p90: float) -> Measurement:
    return Measurement(
        subject=arch_id,
        quantity="latency",
        value=value,
        unit="ms",
        p10=p10,
        p90=p90,
        workload=None,  # type: ignore[arg-type]
        device="cpu",
        implementation="eager",
        method="",
        software="",
        measured_at="",
    )


def compared(*trials: Trial, **timed: Measurement) -> Worth:
    found = worth(STUDY, trials, timed)
    assert found is not None
    return found


def test_the_fastest_as_good_and_the_best_as_fast_are_found() -> None:
    found = compared(
        trial(0, 2.0, 8.0, PLAIN),
        trial(1, 2.0, 4.0),
        trial(2, 1.9, 6.0),
        trial(3, 2.1, 1.0),
        trial(4, 1.8, 9.0),
    )
    (row,) = found.rows
    assert (row.plain.number, row.cheaper and row.cheaper.number, row.better and row.better.number) == (
        0,
        1,
        2,
    )
    assert row.ratio == (2.0, 2.0, 2.0)
    assert "2.00 times" in found.sentence()


def test_a_plain_network_that_was_promoted_stays_plain() -> None:
    first = trial(0, 3.0, 8.0, PLAIN, "eighth", "p")
    last = trial(5, 2.0, 8.0, "promoted", "", "p")
    assert plain_ids([first, last]) == {"p"}
    (row,) = compared(first, last, trial(6, 2.0, 7.0)).rows
    assert row.plain.number == 5


def test_measured_times_give_the_ratio_an_interval() -> None:
    trials = trial(0, 2.0, 8.0, PLAIN), trial(1, 1.9, 5.0)
    found = compared(*trials, a0=measured("a0", 10.0, 9.0, 12.0), a1=measured("a1", 5.0, 4.0, 6.0))
    assert found.is_measured
    assert found.rows[0].ratio == pytest.approx((2.0, 9 / 6, 12 / 4))


def test_where_nothing_is_as_good_it_says_to_take_the_plain_one() -> None:
    found = compared(trial(0, 2.0, 8.0, PLAIN), trial(1, 2.5, 1.0))
    assert found.rows[0].ratio is None
    assert "take that one" in found.sentence()


def test_where_the_found_are_dearer_it_claims_nothing() -> None:
    found = compared(trial(0, 2.0, 8.0, PLAIN), trial(1, 1.9, 9.0))
    assert "times" not in found.sentence()
    assert "nothing that was found" in found.sentence()


def test_without_plain_networks_there_is_nothing_to_say() -> None:
    assert compared(trial(0, 2.0, 1.0)).sentence() == ""


def test_rungs_are_compared_with_what_the_same_networks_have_in_full() -> None:
    trials = [trial(i, 3.0 + 0.1 * i, 1.0, fidelity="eighth", arch=f"n{i}") for i in range(8)]
    trials += [trial(10 + i, 2.0 + 0.1 * i, 1.0, "promoted", arch=f"n{i}") for i in range(6)]
    trials += [trial(20 + i, 2.0, 1.0, "promoted", "half", f"n{i}") for i in range(3)]
    (found,) = rung_agreements(trials, OBJECTIVES[0])
    assert (found.rung, found.count, found.tau.value) == ("eighth", 6, 1.0)


def test_the_compromise_is_a_plain_network_only_where_nothing_else_is_on_the_front() -> None:
    plain, found = trial(0, 2.0, 4.0, PLAIN), trial(1, 1.7, 6.0)
    assert compromise([found, plain], {"a0"}, OBJECTIVES).number == 1
    assert compromise([plain], {"a0"}, OBJECTIVES).number == 0
