"""Share of their time that two Ray workers spend on trials of 100 ms, including engine and database."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing

from nas import engine
from nas.execution.ray_runner import Cluster, RayRunner
from nas.execution.worker import EvaluatorSpec
from studies.store import Store
from tests.benchmarks.rows import Row
from tests.nas.engine import toy
from tests.nas.engine.drive import searcher_of

WORKERS, COUNT, SLEEP_MS = 2, 200, 100.0


def run() -> list[Row]:
    found = sorted(_efficiency() for _ in range(3))
    return [
        Row(f"efficiency of {WORKERS} Ray workers", 100 * found[1], 100 * found[0], 100 * found[2], "%", "90")
    ]


def _efficiency() -> float:
    """Measured from the first outcome on, because starting actors takes seconds, but only once."""
    ends: list[float] = []
    spec = EvaluatorSpec("tests.nas.engine.toy:evaluator", {"sleep_ms": SLEEP_MS})
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Store(f"sqlite:///{folder}/nas.db")) as store,
        closing(RayRunner(spec, toy.OBJECTIVES, Cluster(num_workers=WORKERS))) as runner,
    ):
        study = store.create_study(toy.study("nsga2", COUNT, lag=16))
        engine.run(
            study, store, searcher_of(study), runner, on_event=lambda event: ends.append(time.perf_counter())
        )
    trials = ends[:-1]  # the last event is the end of the search
    return SLEEP_MS / 1e3 * (len(trials) - WORKERS) / WORKERS / (trials[-1] - trials[WORKERS - 1])
