"""What a search is worth beside the plain networks, by closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchspace.spec.handmade import IN_INT8, LAYERS_LEFT_OUT, ORIGINAL, PLAIN
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.latencies import timed
from studies.records import Objective, Study, Trial
from studies.rungs import rung_agreements
from studies.settings import Baseline, Settings
from studies.worth import Worth, compromise, floor_of, marks, worth

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
    assert marks([first, last]) == {"p": PLAIN}
    (row,) = compared(first, last, trial(6, 2.0, 7.0)).rows
    assert row.plain.number == 5


def test_measured_times_give_the_ratio_an_interval() -> None:
    trials = trial(0, 2.0, 8.0, PLAIN), trial(1, 1.9, 5.0)
    found = compared(*trials, a0=measured("a0", 10.0, 9.0, 12.0), a1=measured("a1", 5.0, 4.0, 6.0))
    assert found.is_measured
    assert found.rows[0].ratio == pytest.approx((2.0, 9 / 6, 12 / 4))


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (50.0, "and 4 times less state_bytes"),
        (800.0, "but 4 times as much state_bytes"),
        (200.0, "with as much state_bytes"),
        (0.0, "and infinitely many times less"),
    ],
)
def test_further_costs_of_the_same_two_networks_are_stated(kept: float, said: str) -> None:
    study = replace(STUDY, objectives=(*OBJECTIVES, Objective("state_bytes", source="cost")))
    trials = [trial(0, 2.0, 8.0, PLAIN), trial(1, 2.0, 4.0)]
    for t, value in zip(trials, (200.0, kept), strict=True):
        t.values["state_bytes"] = value
    found = worth(study, trials, {})
    assert found is not None
    assert said in found.sentence()
    assert "2.00 times less latency" in found.sentence()


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


def test_where_no_plain_network_can_be_compared_with_it_says_why() -> None:
    found = trial(1, 1.9, 2.0)
    begun = trial(0, 2.9, 8.0, PLAIN, fidelity="eighth", arch="p")
    assert "search longer" in compared(begun, found).sentence()
    worthless = replace(trial(2, 2.6, 8.0, "promoted", arch="p"), state="infeasible")
    assert "judged in full (1 were)" in compared(begun, worthless, found).sentence()
    known = replace(STUDY, settings=Settings({}, baseline=Baseline("a table of byte pairs", 2.48)))
    beside = worth(known, [begun, worthless, found], {})
    assert beside is not None
    assert not beside.rows
    assert "a table of byte pairs" in beside.sentence()


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


def test_the_compromise_is_chosen_by_what_networks_took_where_they_were_timed() -> None:
    best = [trial(0, 1.0, 9.0), trial(1, 1.1, 5.0), trial(2, 1.6, 4.0)]
    assert compromise(best, (), OBJECTIVES).number == 1
    slower = {"a1": 9.5, "a0": 8.0}  # now trial 0 is both better and faster
    assert compromise(best, (), OBJECTIVES, latencies=slower).number in (0, 2)
    assert compromise(best, (), OBJECTIVES, latencies={"a1": 9.5, "a0": 4.1}).number == 0
    not_latency = (OBJECTIVES[0], Objective("latency", source="user", unit="ms"))
    assert compromise(best, (), not_latency, latencies=slower).number == 1  # the user's own number stays


def test_latencies_of_a_study_are_of_its_workload_and_runtime_and_of_one_device() -> None:
    forward, long = Workload(seq_len=64), Workload(seq_len=512)
    study = replace(
        STUDY, objectives=(OBJECTIVES[0], replace(OBJECTIVES[1], workload=forward, runtime="eager"))
    )
    here = replace(measured("a0", 2.0, 1.9, 2.1), workload=forward)
    found = [
        replace(here, measured_at="1"),
        replace(here, measured_at="2", value=3.0),  # the newest
        replace(here, measured_at="3", value=9.0, workload=long),
        replace(here, measured_at="3", value=9.0, implementation="onnxruntime"),
        replace(here, subject="a1", measured_at="1", value=4.0),
        replace(here, subject="a1", measured_at="3", value=9.0, device="another"),
    ]
    assert {subject: m.value for subject, m in timed(study, found).items()} == {"a0": 3.0, "a1": 4.0}


EMBEDDING = (
    Objective("loss", source="inherited", unit="1 - cosine"),
    Objective("latency", source="predicted", unit="ms"),
)


def imported(objectives: tuple[Objective, ...] = EMBEDDING, **recipe: object) -> Study:
    settings = Settings({"model": "m", **recipe})
    return Study("s", {}, objectives, "guided", 0, 4, 10, settings=settings)


WITHOUT_A_SEARCH = (
    trial(0, 0.0, 48.0, ORIGINAL),
    trial(1, 0.01, 33.0, ORIGINAL + IN_INT8),
    trial(2, 0.05, 40.0, LAYERS_LEFT_OUT),
    trial(3, 0.06, 28.0, LAYERS_LEFT_OUT + IN_INT8),
)


def test_a_found_network_that_a_trivial_one_beats_is_worth_nothing() -> None:
    """At 42 ms with a loss of 0.06 it is dearer and worse than the model itself in int8."""
    found = worth(imported(floor=0.7), [*WITHOUT_A_SEARCH, trial(4, 0.06, 42.0), trial(5, 0.2, 20.0)], {})
    assert found is not None
    assert [r.kind for r in found.rows] == [t.origin for t in WITHOUT_A_SEARCH]
    assert [f.number for f in found.unbeaten] == [5]
    told = found.sentence()
    assert all(f"{t.origin}, trial {t.number} " in told for t in WITHOUT_A_SEARCH)
    beaten = worth(imported(), [*WITHOUT_A_SEARCH, trial(4, 0.06, 42.0)], {})
    assert beaten is not None
    assert not beaten.unbeaten
    assert "none is better or cheaper" in beaten.sentence()


def test_what_does_not_keep_the_floor_is_no_find() -> None:
    """0.2 is a cosine of 0.8: cheaper than all, and of no use to who asked for 0.9 of the model's."""
    found = worth(imported(), [*WITHOUT_A_SEARCH, trial(5, 0.2, 20.0)], {})
    assert found is not None
    assert not found.found
    assert "as good as was asked" in found.sentence()


def test_the_knee_keeps_the_floor_of_the_models_own_quality() -> None:
    """Of embeddings 0.9 of a cosine of 1: a loss of at most 0.1."""
    good, bad = trial(4, 0.09, 30.0), trial(5, 0.47, 5.0)
    trials = [*WITHOUT_A_SEARCH, good, bad]
    floor = floor_of(imported(), trials)
    assert floor is not None
    assert floor.limit == pytest.approx(0.1)
    known = marks(trials)
    assert compromise([bad, good], known, EMBEDDING, floor).number == 4
    assert compromise([bad, trials[1]], known, EMBEDDING, floor).number == 1  # made by hand, and good
    assert floor_of(imported(floor=0), trials) is None
    assert floor_of(STUDY, trials) is None


@pytest.mark.parametrize(
    ("objective", "own", "limit"),
    [
        (Objective("accuracy", "maximize", source="inherited"), 0.8, 0.64),
        (Objective("loss", unit="nats", source="inherited"), 2.0, 2.0 + 0.22314355),  # - ln 0.8
    ],
)
def test_a_floor_of_any_quality_is_a_share_of_the_models(
    objective: Objective, own: float, limit: float
) -> None:
    trials = [Trial(0, {}, "a0", "complete", {objective.name: own}, origin=ORIGINAL)]
    floor = floor_of(imported((objective, EMBEDDING[1]), floor=0.8), trials)
    assert floor is not None
    assert floor.limit == pytest.approx(limit)
