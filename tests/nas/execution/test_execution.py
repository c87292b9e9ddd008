"""From results and exceptions to outcomes, in this process and in others."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas.errors import Infeasible, UsageError
from nas.execution.local import LocalRunner
from nas.execution.outcome import evaluate_trial
from nas.execution.pool import PoolRunner
from nas.execution.runner import Runner
from nas.execution.worker import EvaluatorSpec
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.records import Objective, Outcome, Trial
from tests.nas.engine import toy

ENCODING = Encoding(toy.space())


def trial(number: int) -> Trial:
    genes = [0] * len(ENCODING)
    genes[0] = number % 4
    arch = ENCODING.decode(tuple(genes))
    return Trial(number, arch.to_json(), arch.id)


def outcome_of(result: Any, objectives: tuple[Objective, ...] = toy.OBJECTIVES) -> Outcome:
    def evaluate(arch: ArchSpec) -> Mapping[str, float]:
        if isinstance(result, BaseException):
            raise result
        return result

    return evaluate_trial(evaluate, trial(7), objectives)


def collect(runner: Runner, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += runner.wait()
    return sorted(outcomes, key=lambda o: o.number)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


def environment(arch: ArchSpec) -> dict[str, float]:
    """Itself an evaluator: what a worker was started with."""
    return {"loss": float(os.environ["OMP_NUM_THREADS"]), "cost": float(os.getpid())}


def patient(arch: ArchSpec) -> dict[str, float]:
    time.sleep(60)
    return toy.judge(arch)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"loss": 1.0}, "the evaluator returned no 'cost', it returned: loss"),
        ({}, "the evaluator returned no 'loss', it returned: nothing"),
        ({"loss": math.nan, "cost": 1.0}, "loss is nan"),
        ({"loss": 1.0, "cost": math.inf}, "cost is inf"),
        (ValueError("seq_len 7 is odd"), "ValueError: seq_len 7 is odd"),
        (KeyError(), "KeyError"),
        (MemoryError(), "out of memory: MemoryError"),
        (OutOfMemoryError("tried 2 GiB"), "out of memory: tried 2 GiB"),
        (RuntimeError("CUDA error: out of memory"), "out of memory: CUDA error: out of memory"),
        (RuntimeError("shapes differ"), "RuntimeError: shapes differ"),
    ],
)
def test_what_went_wrong_is_a_failed_outcome_with_its_reason(result: Any, error: str) -> None:
    outcome = outcome_of(result)
    assert (outcome.number, outcome.state, outcome.error) == (7, "failed", error)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupts_are_not_outcomes(interrupt: BaseException) -> None:
    with pytest.raises(type(interrupt)):
        outcome_of(interrupt)


def test_bounds_decide_between_complete_and_infeasible() -> None:
    objectives = (
        Objective("loss"),
        Objective("latency", upper=2.0),
        Objective("accuracy", "maximize", lower=0.5),
    )
    inside = {"loss": 1.0, "latency": 2.0, "accuracy": 0.5}
    assert outcome_of(inside, objectives).state == "complete"
    outside = outcome_of({"loss": 1.0, "latency": 2.5, "accuracy": 0.25}, objectives)
    assert (outside.state, outside.violations) == ("infeasible", {"latency": 0.5, "accuracy": 0.25})


def test_an_evaluator_may_stop_early_at_a_bound() -> None:
    outcome = outcome_of(Infeasible({"bytes": 12.0}, {"bytes": 112.0}))
    assert (outcome.state, outcome.violations, outcome.values) == (
        "infeasible",
        {"bytes": 12.0},
        {"bytes": 112.0},
    )
    for violations in ({}, {"bytes": 0.0}, {"bytes": math.nan}, {"bytes": math.inf}):
        with pytest.raises(ValueError, match="a violation is a finite positive number"):
            Infeasible(violations)


def test_a_pool_gives_the_values_that_this_process_gives() -> None:
    local = LocalRunner(toy.judge, toy.OBJECTIVES)
    with closing(PoolRunner(EvaluatorSpec("tests.nas.engine.toy:judge"), toy.OBJECTIVES, 2)) as pool:
        for runner in (local, pool):
            for n in range(6):
                runner.submit(trial(n))
        expected, actual = collect(local, 6), collect(pool, 6)
    assert [(o.number, o.state, o.values) for o in actual] == [
        (o.number, o.state, o.values) for o in expected
    ]
    assert {o.worker for o in actual} <= {"worker-0", "worker-1"}


def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    with closing(PoolRunner(EvaluatorSpec(f"{__name__}:environment"), toy.OBJECTIVES, 2)) as pool:
        pool.submit(trial(0))
        threads = collect(pool, 1)[0].values["loss"]
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)
    assert os.environ["OMP_NUM_THREADS"] == "77"


def test_a_trial_whose_worker_is_killed_is_tried_once_more() -> None:
    spec = EvaluatorSpec("tests.nas.engine.toy:evaluator", {"sleep_ms": 300})
    with closing(PoolRunner(spec, toy.OBJECTIVES, 1)) as pool:

        def outcome(number: int, num_kills: int) -> Outcome:
            pool.submit(trial(number))
            for _ in range(num_kills):
                wait_until(lambda: pool.wait(0.0) == [] and pool._workers[0].trial is not None)
                os.kill(pool._workers[0].process.pid or 0, signal.SIGKILL)
                pool._workers[0].process.join()
            [found] = pool.wait()
            return found

        outcomes = [outcome(number, num_kills) for number, num_kills in enumerate((0, 1, 2, 0))]
    assert [(o.number, o.state) for o in outcomes] == [
        (0, "complete"),
        (1, "complete"),
        (2, "failed"),
        (3, "complete"),
    ]
    assert "worker process ended with signal 9" in outcomes[2].error


def test_a_worker_killed_while_idle_costs_nothing() -> None:
    with closing(PoolRunner(EvaluatorSpec("tests.nas.engine.toy:judge"), toy.OBJECTIVES, 1)) as pool:
        pool.submit(trial(0))
        collect(pool, 1)
        process = pool._workers[0].process
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        pool.submit(trial(1))
        [outcome] = collect(pool, 1)
    assert (outcome.number, outcome.state) == (1, "complete")


def test_closing_a_pool_ends_its_workers_in_mid_trial() -> None:
    pool = PoolRunner(EvaluatorSpec(f"{__name__}:patient"), toy.OBJECTIVES, 1)
    pid = pool._workers[0].process.pid or 0
    pool.submit(trial(0))
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_in_mid_trial_do_not_outlive_a_killed_driver() -> None:
    script = f"""
from {__name__} import *
pool = PoolRunner(EvaluatorSpec("{__name__}:patient"), toy.OBJECTIVES, 1)
pool.submit(trial(0))
print(pool._workers[0].process.pid, flush=True)
pool.wait()
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    worker = Path("/proc", driver.stdout.readline().strip(), "stat")
    assert worker.exists()
    driver.kill()
    driver.communicate()

    def is_gone() -> bool:
        try:
            return worker.read_text().rpartition(")")[2].split()[0] == "Z"  # dead, and not yet reaped
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_gone)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("judge", None, "judge: name a judge as package.module:function"),
        ("tests.nas.engine.missing:judge", None, "No module named"),
        ("tests.nas.engine.toy:evaluator", {"colour": "blue"}, "unexpected keyword argument 'colour'"),
        ("os:abort", {}, r"worker process ended with signal 6"),
    ],
)
def test_an_evaluator_that_cannot_start_ends_the_search_with_its_reason(
    target: str, settings: dict[str, Any] | None, message: str
) -> None:
    with closing(PoolRunner(EvaluatorSpec(target, settings), toy.OBJECTIVES, 1)) as pool:
        pool.submit(trial(0))
        with pytest.raises(UsageError, match=message):
            pool.wait()
