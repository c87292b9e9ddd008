"""What every database must do the same: the promises in the docstring of `studies.store`."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.control import heartbeat
from studies.errors import LeaseLost, StoreError
from studies.records import FINISHED, TRIAL_STATES, Artifact, Outcome, Study, Trial
from studies.store import Store

ARCH = {"blocks": [{"mixer": {"op": "softmax", "num_heads": 4}}], "task": "causal_lm"}
LATENCY = Measurement(
    subject="a0",
    quantity="latency",
    value=1.25,
    unit="ms",
    workload=Workload("decode", 1, 1, 128),
    device="cpu",
    implementation="torch",
    method="median of 20",
    software="torch 2.13",
    measured_at="2025-01-01T00:00:00+00:00",
    p10=1.0,
    p90=2.0,
    samples=20,
    reference=2.5,
    seed=3,
)


def trial(number: int, **changes: object) -> Trial:
    return replace(Trial(number, ARCH, f"a{number}"), **changes)  # type: ignore[arg-type]


def test_a_study_comes_back_as_it_was_created(store: Store, new_study: Study) -> None:
    created = store.create_study(new_study)
    assert replace(created, id=None, created_at="") == new_study
    assert created.id is not None
    assert created.created_at != ""
    assert store.study("tiny") == created


def test_a_second_study_of_the_same_name_is_refused_with_advice(store: Store, study: Study) -> None:
    with pytest.raises(StoreError, match=r"'tiny' exists already.*nas resume tiny"):
        store.create_study(replace(study, id=None))


def test_an_unknown_study_is_answered_with_the_known_names(store: Store, study: Study) -> None:
    store.create_study(replace(study, name="other", id=None))
    with pytest.raises(StoreError, match=r"'tyni'.*known: other, tiny"):
        store.study("tyni")


def test_a_study_that_was_never_stored_is_refused(store: Store, new_study: Study) -> None:
    with pytest.raises(StoreError, match="no id"):
        store.trials(new_study)


def test_changes_of_a_study_are_stored_and_returned(store: Store, study: Study) -> None:
    expected = replace(study, state="stopped", max_trials=7, max_seconds=None, supernet="s1", profile="p1")
    changed = store.set_study_state(study, "stopped")
    changed = store.update_budget(changed, 7, None)
    changed = store.set_references(changed, supernet="s1")
    changed = store.set_references(changed, profile="p1")
    assert changed == store.study("tiny") == expected
    with pytest.raises(StoreError, match=r"'paused'.*running, stopped, finished"):
        store.set_study_state(study, "paused")


def test_the_list_of_studies_counts_their_trials_by_state(store: Store, study: Study) -> None:
    store.create_study(replace(study, name="empty", id=None))
    for number, state in enumerate(("waiting", "failed", "complete", "complete")):
        store.add_trials(study, [trial(number, state=state)])
    first, second = store.studies()
    assert (first.name, first.state, first.searcher, first.space) == ("tiny", "running", "nsga2", "tiny-lm")
    assert first.created_at == study.created_at
    assert first.counts == {**dict.fromkeys(TRIAL_STATES, 0), "waiting": 1, "failed": 1, "complete": 2}
    assert second.counts == dict.fromkeys(TRIAL_STATES, 0)


def test_a_trial_comes_back_as_it_was_added(store: Store, study: Study) -> None:
    full = Trial(
        3, ARCH, "a3", "complete", {"loss": 0.1 + 0.2}, {"memory": 1e-300}, "full", "mutation", (0, 2), "w1", "none",
        "2025-01-01", "2025-01-02", 1.5,
    )  # fmt: skip
    store.add_trials(study, [full])
    assert store.trial(study, 3) == full
    with pytest.raises(StoreError, match="'tiny' has no trial 4"):
        store.trial(study, 4)


def test_a_number_is_given_to_one_trial_of_a_study_only(store: Store, study: Study) -> None:
    other = store.create_study(replace(study, name="other", id=None))
    store.add_trials(study, [trial(0)])
    store.add_trials(other, [trial(0)])
    with pytest.raises(StoreError, match="trial 0 of study 'tiny' exists already"):
        store.add_trials(study, [trial(0, arch_id="b0")])
    assert store.trial(study, 0).arch_id == "a0"


def test_a_trial_lives_from_waiting_over_running_to_its_outcome(store: Store, study: Study) -> None:
    store.add_trials(study, [trial(0)])
    store.start_trials(study, [0], "w1")
    running = store.trial(study, 0)
    assert (running.state, running.worker) == ("running", "w1")
    store.start_trials(study, [0], "w2")
    assert store.trial(study, 0).worker == "w2"
    store.finish_trials(study, [Outcome(0, "infeasible", {"loss": 2.0}, {"latency": 0.5}, seconds=0.25)])
    finished = store.trial(study, 0)
    assert (finished.state, finished.values, finished.violations) == (
        "infeasible",
        {"loss": 2.0},
        {"latency": 0.5},
    )
    assert (finished.worker, finished.seconds) == ("w2", 0.25)
    assert "" < finished.started_at <= finished.finished_at


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_trial_never_changes(store: Store, study: Study, state: str) -> None:
    store.add_trials(study, [trial(0), trial(1)])
    store.finish_trials(study, [Outcome(0, state, {"loss": 1.0}, error="why")])
    before = store.trials(study)
    again = Outcome(0, "complete", {"loss": 0.0})
    for change in (
        lambda: store.finish_trials(study, [again]),
        lambda: store.finish_trials(study, [Outcome(1, "complete"), again], {"version": 1}),
        lambda: store.start_trials(study, [0], "w"),
    ):
        with pytest.raises(StoreError, match=f"trial 0 of study 'tiny' is {state} already"):
            change()
    assert store.trials(study) == before
    assert store.searcher_state(study) is None


def test_finishing_needs_a_known_trial_and_a_final_state(store: Store, study: Study) -> None:
    with pytest.raises(StoreError, match="no trial 0"):
        store.finish_trials(study, [Outcome(0, "complete")])
    store.add_trials(study, [trial(0)])
    with pytest.raises(StoreError, match="can't finish as 'running'"):
        store.finish_trials(study, [Outcome(0, "running")])


def test_what_one_step_of_a_search_brings_is_written_together(store: Store, study: Study) -> None:
    store.add_trials(study, [trial(n) for n in range(3)], worker="w1")
    assert [(t.state, t.worker, t.started_at != "") for t in store.trials(study)] == [
        ("running", "w1", True)
    ] * 3
    store.finish_trials(study, [Outcome(n, "complete", {"loss": 1.0 + n}) for n in (2, 0)], {"version": 1})
    assert [(t.number, t.values) for t in store.trials(study, states=("complete",))] == [
        (0, {"loss": 1.0}),
        (2, {"loss": 3.0}),
    ]
    assert store.searcher_state(study) == {"version": 1}
    store.finish_trials(study, [Outcome(1, "complete")])
    assert store.searcher_state(study) == {"version": 1}


def test_results_are_the_trials_without_their_architectures(store: Store, study: Study) -> None:
    store.add_trials(study, [trial(0), trial(1)])
    store.finish_trials(study, [Outcome(1, "infeasible", {"loss": math.inf}, {"latency": 0.5}, seconds=2.0)])
    for found, full in zip(store.results(study), store.trials(study), strict=True):
        assert (found.number, found.arch_id, found.state) == (full.number, full.arch_id, full.state)
        assert (found.violations, found.seconds, found.arch) == (full.violations, full.seconds, {})
    assert math.isnan(store.results(study)[1].values["loss"])


def test_only_the_holder_of_the_lease_writes_where_the_owner_is_named(store: Store, study: Study) -> None:
    store.acquire_lease(study, "a", 60)
    store.add_trials(study, [trial(0)], owner="a")
    store.release_lease(study, "a")
    store.acquire_lease(study, "b", 60)
    for change in (
        lambda: store.add_trials(study, [trial(1)], owner="a"),
        lambda: store.start_trials(study, [0], "w", owner="a"),
        lambda: store.finish_trials(study, [Outcome(0, "complete")], {"version": 1}, owner="a"),
    ):
        with pytest.raises(LeaseLost, match="'tiny' was taken over by another process"):
            change()
    assert [(t.number, t.state) for t in store.trials(study)] == [(0, "waiting")]
    assert store.searcher_state(study) is None
    store.finish_trials(study, [Outcome(0, "complete")], owner="b")


def test_writing_the_same_again_after_a_lost_answer_changes_nothing(store: Store, study: Study) -> None:
    store.acquire_lease(study, "a", 60)
    for _ in range(2):
        store.add_trials(study, [trial(0), trial(1)], owner="a")
    with pytest.raises(StoreError, match="trial 1 of study 'tiny' exists already"):
        store.add_trials(study, [trial(2), trial(1, arch_id="b1")], owner="a")
    assert [t.arch_id for t in store.trials(study)] == ["a0", "a1"]


def test_trials_are_ordered_by_number_and_filtered(store: Store, study: Study) -> None:
    other = store.create_study(replace(study, name="other", id=None))
    store.add_trials(other, [trial(1)])
    for number in (3, 0, 2, 1):
        store.add_trials(study, [trial(number, state="complete" if number % 2 else "waiting")])
    numbers = [t.number for t in store.trials(study)]
    assert numbers == [0, 1, 2, 3]
    assert [t.number for t in store.trials(study, states=("complete",))] == [1, 3]
    assert [t.number for t in store.trials(study, after=1)] == [2, 3]
    assert [t.number for t in store.trials(study, states=("waiting", "complete"), after=2)] == [3]
    assert store.trials(study, states=()) == []


def test_numbers_that_are_not_finite_come_back_as_nan(store: Store, study: Study) -> None:
    store.add_trials(study, [trial(0)])
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0}
    store.finish_trials(study, [Outcome(0, "complete", values, {"a": math.nan})])
    store.add_measurements([replace(LATENCY, value=math.nan, p10=math.nan)])
    found = store.trial(study, 0)
    assert [math.isnan(found.values[n]) for n in "abcd"] == [True, True, True, False]
    assert math.isnan(found.violations["a"])
    (measurement,) = store.measurements()
    assert math.isnan(measurement.value)
    assert measurement.p10 is None


def test_other_json_has_to_be_strict(store: Store, study: Study) -> None:
    with pytest.raises(StoreError, match="strict JSON"):
        store.finish_trials(study, [], {"version": 1, "best": math.nan})
    assert store.searcher_state(study) is None


def test_the_searchers_state_is_replaced_and_none_leaves_it(store: Store, study: Study) -> None:
    assert store.searcher_state(study) is None
    for state in ({"version": 1, "population": [[0, 1], [2, 3]]}, {"version": 1, "rng": 2**70}):
        store.finish_trials(study, [], state)
        store.finish_trials(study, [], None)
        assert store.searcher_state(study) == state


def test_measurements_are_found_by_each_of_their_keys(store: Store) -> None:
    longer = replace(
        LATENCY, workload=Workload("decode", 1, 1, 256), seed=None, reference=None, p10=None, p90=None
    )
    kept = [
        LATENCY,
        longer,
        replace(LATENCY, subject="a1"),
        replace(LATENCY, quantity="energy", device="gpu"),
    ]
    store.add_measurements(kept[:2])
    store.add_measurements(kept[2:])
    store.add_measurements([])
    assert store.measurements() == kept
    assert store.measurements(subject="a1") == [kept[2]]
    assert store.measurements(quantity="energy") == [kept[3]]
    assert store.measurements(device="cpu") == kept[:3]
    assert store.measurements(workload=longer.workload) == [longer]
    assert store.measurements("a0", "latency", "cpu", LATENCY.workload) == [LATENCY]


def test_an_artifact_made_again_replaces_its_note(store: Store) -> None:
    assert store.artifact("supernet", "k1") is None
    first = Artifact("supernet", "k1", "supernets/k1", 2**40, "2025-01-01")
    moved = replace(first, path="elsewhere/k1")
    profile = replace(first, kind="profile")
    for artifact in (first, profile, moved):
        store.add_artifact(artifact)
    assert store.artifact("supernet", "k1") == moved
    assert store.artifacts() == [profile, moved]


def test_a_lease_has_one_owner_until_it_is_released_or_expires(store: Store, study: Study) -> None:
    assert store.acquire_lease(study, "a", 60)
    assert store.acquire_lease(study, "a", 60)
    assert not store.acquire_lease(study, "b", 60)
    assert heartbeat(store, study, "b", 60, {}) is None
    assert not store.release_lease(study, "b")
    assert heartbeat(store, study, "a", 0, {}) == ""
    assert store.acquire_lease(study, "b", 60), "an expired lease may be taken over"
    assert heartbeat(store, study, "a", 60, {}) is None
    assert not store.release_lease(study, "a")
    assert store.release_lease(study, "b")
    assert store.acquire_lease(study, "a", 60)


def test_of_many_that_want_the_lease_at_once_one_gets_it(store: Store, study: Study) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: store.acquire_lease(study, f"owner {i}", 60), range(8)))
    assert sum(got) == 1
