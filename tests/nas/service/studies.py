"""Finished studies to look at, made without training anything."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

from nas import engine
from nas.execution.local import LocalRunner
from searchspace.spec.measurement import Measurement
from searchspace.spec.workload import Workload
from studies.records import Objective, Outcome, Study, Trial
from studies.store import Store
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of


def judge(arch):
    """The toy's, except that every eleventh architecture fails."""
    if int(arch.id, 16) % 11 == 0:
        raise MemoryError("no room for <b>the activations</b>")
    return toy.judge(arch)


def add(url: str, name: str = "toy", count: int = 60, **changes: Any) -> Study:
    with closing(Store(url)) as store:
        study = store.create_study(replace(toy.study("nsga2", count), name=name, quality="user", **changes))
        return engine.run(study, store, searcher_of(study), LocalRunner(judge, toy.OBJECTIVES))


WORKLOAD = Workload(seq_len=64)


def add_three(store: Store) -> None:
    """The study `toy` with three networks of predicted latency; the second is the knee."""
    goals = (
        Objective("loss", source="trained", unit="nats"),
        Objective("latency", source="predicted", unit="ms", workload=WORKLOAD, runtime="eager"),
    )
    study = store.create_study(toy.study("random", 3, objectives=goals))
    store.add_trials(study, [Trial(n, {"blocks": []}, f"a{n}") for n in range(3)], worker="w")
    for n, (loss, latency) in enumerate([(1.0, 9.0), (1.1, 5.0), (1.6, 4.0)]):
        store.finish_trials(study, [Outcome(n, "complete", {"loss": loss, "latency": latency})])


def time_second(store: Store) -> None:
    """It takes so much longer than was predicted that another one is the knee."""
    store.add_measurements([Measurement("a1", "latency", 9.5, "ms", WORKLOAD, "cpu", "eager", "", "", "1")])
