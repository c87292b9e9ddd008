"""Trials that workers claim: each by one worker, delivered once, waiting again where its worker is gone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from studies.queue import MAX_ATTEMPTS, Queue, studies_with_waiting_trials
from studies.records import Outcome, Study, Trial
from studies.store import Store


@pytest.fixture
def queue(store: Store, study: Study) -> Queue:
    return Queue(store, study)


def add(store: Store, study: Study, count: int) -> None:
    store.add_trials(study, [Trial(n, {"n": n}, f"a{n}") for n in range(count)])


def states(store: Store, study: Study) -> list[tuple[str, str]]:
    return [(t.state, t.worker) for t in store.trials(study)]


def test_the_waiting_trial_of_lowest_number_is_claimed(store: Store, study: Study, queue: Queue) -> None:
    add(store, study, 2)
    claimed = queue.claim("w1")
    assert claimed is not None
    assert (claimed.number, claimed.state, claimed.worker, claimed.arch) == (0, "running", "w1", {"n": 0})
    assert store.trial(study, 0) == claimed
    second = queue.claim("w2")
    assert second is not None
    assert second.number == 1
    assert queue.claim("w1") is None


def test_many_workers_claim_every_trial_once(store: Store, study: Study, queue: Queue) -> None:
    add(store, study, 40)

    def work(name: str) -> list[int]:
        numbers = []
        while trial := queue.claim(name):
            numbers.append(trial.number)
            assert queue.deliver(name, Outcome(trial.number, "complete", {"loss": 1.0}))
        return numbers

    with ThreadPoolExecutor(4) as pool:
        claimed = [n for numbers in pool.map(work, ("w0", "w1", "w2", "w3")) for n in numbers]
    assert sorted(claimed) == list(range(40))
    assert len(store.trials(study, states=["complete"])) == 40


def test_only_the_worker_that_holds_a_trial_delivers_it_and_only_once(
    store: Store, study: Study, queue: Queue
) -> None:
    add(store, study, 1)
    queue.claim("w1")
    assert not queue.deliver("w2", Outcome(0, "complete", {"loss": 2.0}))
    assert queue.finished([0]) == []
    outcome = Outcome(0, "infeasible", {"loss": 1.0}, {"latency": 0.5}, worker="w1", seconds=0.5)
    assert queue.deliver("w1", outcome)
    time.sleep(0.002)  # the time of a delivery tells two of them apart
    assert not queue.deliver("w1", replace(outcome, values={"loss": 3.0}))
    assert queue.finished([0, 7]) == [outcome]


def test_a_trial_whose_worker_falls_silent_waits_again_and_fails_the_second_time(
    store: Store, study: Study, queue: Queue
) -> None:
    add(store, study, 1)
    for _ in range(MAX_ATTEMPTS):
        assert states(store, study) == [("waiting", "")]
        assert queue.claim("w1") is not None
        queue.revive(60.0)
        assert states(store, study) == [("running", "w1")]
        time.sleep(0.01)
        queue.revive(0.0)
    assert states(store, study) == [("failed", "w1")]
    assert "worker gone: no heartbeat for 0 s, 2 times" in store.trial(study, 0).error
    assert not queue.deliver("w1", Outcome(0, "complete"))


def test_heartbeats_keep_a_claim(store: Store, study: Study, queue: Queue) -> None:
    add(store, study, 2)
    queue.claim("w1")
    queue.claim("w2")
    time.sleep(1.2)
    queue.beat("w1")
    queue.beat("w2", [0])  # not its own
    queue.revive(1.0)
    assert states(store, study) == [("running", "w1"), ("waiting", "")]


def test_what_a_lost_driver_had_begun_itself_waits_for_workers(
    store: Store, study: Study, queue: Queue
) -> None:
    store.add_trials(study, [Trial(n, {}, f"a{n}") for n in range(2)], worker="driver")
    queue.beat("driver", [1])
    queue.revive(60.0)
    assert states(store, study) == [("waiting", ""), ("running", "driver")]


def test_a_trial_given_back_is_as_if_it_had_never_been_claimed(
    store: Store, study: Study, queue: Queue
) -> None:
    add(store, study, 1)
    for _ in range(MAX_ATTEMPTS + 1):
        queue.claim("w1")
        queue.give_back("w1", [0])
        assert states(store, study) == [("waiting", "")]


def test_studies_are_named_while_they_have_trials_that_wait(store: Store, study: Study) -> None:
    other = store.create_study(replace(study, name="other", id=None))
    add(store, other, 1)
    store.add_trials(study, [Trial(0, {}, "a0")], worker="driver")
    assert studies_with_waiting_trials(store) == ["other"]
    Queue(store, other).claim("w1")
    assert studies_with_waiting_trials(store) == []
