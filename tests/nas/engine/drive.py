"""Starts or goes on with the toy study in a process of its own, to be killed at any moment.

    python tests/nas/engine/drive.py DATABASE_URL SEARCHER NUM_WORKERS MAX_TRIALS SLEEP_MS LOG

NUM_WORKERS 0 evaluates in the process itself.
"""

from __future__ import annotations

import sys
from contextlib import closing

from nas import engine
from nas.errors import StoreError
from nas.execution.local import LocalRunner
from nas.execution.pool import PoolRunner
from nas.execution.runner import Runner
from nas.execution.worker import EvaluatorSpec
from nas.searchers.base import Problem, Searcher
from nas.searchers.registry import make_searcher
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from studies.records import Study
from studies.store import Store
from tests.nas.engine import toy


def open_study(store: Store, study: Study) -> Study:
    try:
        return store.study(study.name)
    except StoreError:
        return store.create_study(study)


def study_of(searcher: str, max_trials: int) -> Study:
    """The toy study; `gp` gets the toy space of two blocks, which has as few decisions as it takes."""
    space = toy.space(2 if searcher == "gp" else 4)
    return toy.study(searcher, max_trials, space=space.to_json())


def searcher_of(study: Study) -> Searcher:
    encoding = Encoding(SpaceSpec.from_json(study.space))
    rungs = toy.LADDER if study.searcher == "halving" else ()
    problem = Problem(encoding, len(study.objectives), study.seed, lambda arch: None, rungs)
    return make_searcher(study.searcher, problem)


def make_runner(num_workers: int, **settings: object) -> Runner:
    if num_workers == 0:
        return LocalRunner(toy.evaluator(**settings), toy.OBJECTIVES)  # type: ignore[arg-type]
    spec = EvaluatorSpec("tests.nas.engine.toy:evaluator", settings)
    return PoolRunner(spec, toy.OBJECTIVES, num_workers)


def drive(url: str, searcher: str, num_workers: int, max_trials: int, sleep_ms: float, log: str) -> None:
    store = Store(url)
    study = open_study(store, study_of(searcher, max_trials))
    with closing(make_runner(num_workers, log=log, sleep_ms=sleep_ms, jitter=1)) as runner:
        engine.run(study, store, searcher_of(study), runner)


def main() -> None:
    url, searcher, num_workers, max_trials, sleep_ms, log = sys.argv[1:]
    drive(url, searcher, int(num_workers), int(max_trials), float(sleep_ms), log)


if __name__ == "__main__":
    main()
