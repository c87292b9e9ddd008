"""Interleaved timing under a clock that the test moves: what is called when, and what a ratio cancels."""

import time

import numpy as np
import pytest
import torch

from predictors.timing import (
    MAX_RUNS,
    MIN_ROUNDS,
    MIN_SAMPLE_MS,
    cpu_clock,
    num_threads,
    time_interleaved,
    warm_up,
)


class Machine:
    """A clock, and calls that move it by their cost times the slowness of the moment."""

    def __init__(self, slowness=lambda number: 1.0):
        self.now_ns, self.calls, self.slowness = 0, [], slowness

    def clock(self):
        return self.now_ns

    def call(self, name, ms):
        def run():
            self.now_ns += round(ms * 1e6 * self.slowness(len(self.calls)))
            self.calls.append(name)

        return run


WARM_UP = 3  # calls of equal length: the first is the best, the next two settle it


def test_the_reference_is_called_before_between_and_after_the_subjects_of_each_round():
    machine, rounds = Machine(), 7
    subjects = {name: machine.call(name, ms) for name, ms in (("a", 1), ("b", 2), ("c", 3))}
    time_interleaved(subjects, machine.call("R", 1), samples=rounds, clock=machine.clock)

    timed = machine.calls[WARM_UP * 4 :]
    assert len(timed) == rounds * 7
    orders = [timed[i : i + 7] for i in range(0, len(timed), 7)]
    assert all(order[::2] == ["R"] * 4 and sorted(order[1::2]) == ["a", "b", "c"] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_the_order_of_the_subjects_depends_on_the_seed_alone():
    def order(seed):
        machine = Machine()
        subjects = {name: machine.call(name, 1) for name in "abcd"}
        time_interleaved(subjects, machine.call("R", 1), samples=5, seed=seed, clock=machine.clock)
        return machine.calls

    assert order(0) == order(0) != order(1)


def test_a_short_call_is_looped_within_a_sample():
    machine = Machine()
    found = time_interleaved(
        {"a": machine.call("a", MIN_SAMPLE_MS / 8)}, machine.call("R", 1), samples=6, clock=machine.clock
    )
    assert machine.calls.count("a") == WARM_UP + 6 * 8
    assert found["a"].median_ms == pytest.approx(MIN_SAMPLE_MS / 8)
    assert found["a"].samples == 6


def test_ratios_cancel_a_processor_that_runs_at_half_speed_in_half_of_the_rounds():
    subjects = {"a": 0.5, "b": 3.0}
    first, per_round = WARM_UP * 3, 2 * len(subjects) + 1
    machine = Machine(lambda number: 2.0 if number >= first and (number - first) // per_round % 2 else 1.0)
    calls = {name: machine.call(name, ms) for name, ms in subjects.items()}
    found = time_interleaved(calls, machine.call("R", 1.5), samples=20, clock=machine.clock)
    for name, ms in subjects.items():
        assert found[name].ratio == found[name].ratio_p10 == found[name].ratio_p90 == pytest.approx(ms / 1.5)
        assert found[name].p90_ms == pytest.approx(2 * found[name].p10_ms)
        assert not found[name].is_stable


def test_one_interrupted_reference_sample_changes_no_ratio():
    first_of_third_round = WARM_UP * 2 + 2 * 3
    machine = Machine(lambda number: 100.0 if number == first_of_third_round else 1.0)
    found = time_interleaved(
        {"a": machine.call("a", 1.0)}, machine.call("R", 2.0), samples=10, clock=machine.clock
    )["a"]
    assert machine.calls[first_of_third_round] == "R"
    assert found.ratio_p10 == found.ratio == found.ratio_p90 == pytest.approx(0.5)


def test_an_unstable_speed_is_measured_again_and_then_reported_as_such():
    machine = Machine(lambda number: 1.0 + number % 2)
    subjects = {"a": machine.call("a", 1.0), "b": machine.call("b", 1.0)}
    found = time_interleaved(subjects, machine.call("R", 1.0), samples=8, clock=machine.clock)
    assert not found["a"].is_stable
    assert found["a"].spread == pytest.approx(2.0)
    assert len(machine.calls) >= MAX_RUNS * 8 * 5


def test_rounds_stop_when_the_seconds_are_over_but_not_before_the_least_number():
    found = time_interleaved({"a": lambda: None}, lambda: time.sleep(0.001), samples=1000, seconds=0.0)
    assert found["a"].samples == MIN_ROUNDS


def test_percentiles_are_those_of_the_samples():
    costs = iter([*[1.0] * WARM_UP, *np.arange(1.0, 12.0).tolist()])
    machine = Machine()

    def subject():
        machine.now_ns += round(next(costs) * 1e6)

    found = time_interleaved({"a": subject}, machine.call("R", 2.0), samples=11, clock=machine.clock)["a"]
    assert (found.p10_ms, found.median_ms, found.p90_ms) == pytest.approx((2.0, 6.0, 10.0))
    assert (found.ratio_p10, found.ratio, found.ratio_p90) == pytest.approx((1.0, 3.0, 5.0))


def test_warming_up_ends_once_calls_stop_getting_faster():
    times = iter([8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    assert warm_up(lambda: None, lambda call, loops: next(times)) == 1.0
    assert next(times) == 1.0
    assert next(times, None) is None


def test_the_number_of_threads_is_restored_and_decides_the_clock():
    before = torch.get_num_threads()
    with num_threads(2):
        assert torch.get_num_threads() == 2
        assert cpu_clock() is time.perf_counter_ns
    with num_threads(1):
        assert cpu_clock() is time.thread_time_ns
    assert torch.get_num_threads() == before
