"""A store on each kind of database, and a study for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from searchspace.spec.workload import Workload
from studies.records import Objective, Study
from studies.settings import Baseline, Settings
from studies.store import Store
from tests.postgres import *  # noqa: F403 (its fixtures)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url)) as opened:
        yield opened


@pytest.fixture
def new_study() -> Study:
    """A study with every field filled, not stored yet."""
    latency = Objective(
        "latency", "minimize", "ms", "measured", Workload("decode", 1, 1, 512), "cpu", upper=20.0
    )
    return Study(
        name="tiny",
        space={"name": "tiny-lm", "version": 1, "d_model": [64, 128]},
        objectives=(Objective("accuracy", "maximize", "%", "inherited", lower=0.5), latency),
        searcher="nsga2",
        seed=2**40,
        lag=16,
        max_trials=100,
        max_seconds=3600.0,
        settings=Settings({"data": "digits"}, "cpu", baseline=Baseline("a guess", 2.5), others={"steps": 10}),
        code_version="1.0",
    )


@pytest.fixture
def study(store: Store, new_study: Study) -> Study:
    return store.create_study(new_study)
