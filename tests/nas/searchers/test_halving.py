"""Few are judged in full, those are good ones, and a study that was interrupted goes on as if it had not been."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from pathlib import Path

from nas import engine
from nas.execution.local import LocalRunner
from nas.searchers.base import Problem
from nas.searchers.halving import HalvingSearcher
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from studies.pareto import front
from studies.records import Study
from studies.store import Store
from tests.nas.engine import toy


def searcher() -> HalvingSearcher:
    return HalvingSearcher(Problem(Encoding(toy.space()), 2, 7, lambda arch: None, toy.LADDER))


def run(store: Store, name: str, interrupts: int) -> Study:
    study = store.create_study(toy.study("halving", 170, name=name))
    rng = random.Random(0)
    for left in range(interrupts, -1, -1):
        countdown = rng.randint(1, 25) if left else 1000

        def interrupted(arch: ArchSpec, fidelity: str = "") -> dict[str, float]:
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                raise KeyboardInterrupt
            return toy.judge(arch, fidelity)

        study = engine.run(study, store, searcher(), LocalRunner(interrupted, toy.OBJECTIVES))
    return study


def test_promotions_are_the_best_of_their_rung_and_survive_interrupts(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/studies.db")) as store:
        study, broken = run(store, "undisturbed", 0), run(store, "interrupted", 8)
        trials, again = store.trials(study), store.trials(broken)
    assert [(t.arch_id, t.fidelity, t.values, t.parents) for t in trials] == [
        (t.arch_id, t.fidelity, t.values, t.parents) for t in again
    ]
    counts = Counter(t.fidelity for t in trials)
    for lower, higher in (("proxy", "quarter"), ("quarter", "")):
        assert counts[lower] // 4 - 2 <= counts[higher] <= counts[lower] // 4
    assert {t.state for t in trials if t.fidelity} == {"pruned"}
    assert {t.fidelity for t in front(trials, study.objectives)} == {""}
    for fidelity in ("proxy", "quarter", ""):
        judged = [t.arch_id for t in trials if t.fidelity == fidelity]
        assert len(set(judged)) == len(judged)
    assert {t.arch_id for t in trials if not t.fidelity} <= {
        t.arch_id for t in trials if t.fidelity == "quarter"
    }
