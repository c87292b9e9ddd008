"""A search that is killed again and again does what it would have done undisturbed, and nothing twice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from nas import engine
from studies.store import Store
from tests.nas.engine import drive, toy

MAX_TRIALS = 90
SLEEP_MS = 3.0


def undisturbed(folder: Path, searcher: str) -> dict[int, tuple[str, dict[str, float]]]:
    store = Store(f"sqlite:///{folder}/undisturbed.db")
    study = store.create_study(toy.study(searcher, MAX_TRIALS))
    with closing(drive.make_runner(0)) as runner:
        engine.run(study, store, drive.searcher_of(study), runner)
    results = {t.number: (t.arch_id, t.values) for t in store.trials(study)}
    store.close()
    return results


def finished_archs(url: str) -> set[str]:
    """Of the study that the killed process may not have come to create."""
    store = Store(url)
    try:
        studies = [store.study(s.name) for s in store.studies()]
        return {t.arch_id for study in studies for t in store.trials(study) if t.is_finished}
    finally:
        store.close()


def evaluations(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize(
    ("searcher", "num_workers", "num_kills"),
    [
        ("random", 0, 3),
        ("nsga2", 2, 3),
        pytest.param("random", 0, 20, marks=pytest.mark.slow),
        pytest.param("nsga2", 0, 20, marks=pytest.mark.slow),
        pytest.param("nsga2", 2, 20, marks=pytest.mark.slow),
        pytest.param("tpe", 0, 20, marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments_change_nothing(
    searcher: str, num_workers: int, num_kills: int, tmp_path: Path
) -> None:
    expected = undisturbed(tmp_path, searcher)
    url, log = f"sqlite:///{tmp_path}/killed.db", tmp_path / "evaluations.log"
    command = [
        sys.executable,
        drive.__file__,
        url,
        searcher,
        *map(str, (num_workers, MAX_TRIALS, SLEEP_MS, log)),
    ]
    rng = random.Random(num_kills)
    # some while it starts, the others when that many evaluations have begun
    moments = [None] * (num_kills // 4 + 1)
    moments += sorted(rng.sample(range(1, MAX_TRIALS - 5), num_kills - len(moments)))  # type: ignore[arg-type]

    for moment in moments:
        recorded = finished_archs(url)
        already = len(evaluations(log))
        process = subprocess.Popen(command)
        if moment is None:
            time.sleep(rng.uniform(0.0, 1.0))
        else:
            deadline = time.monotonic() + 60
            while len(set(evaluations(log))) < moment and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 2 * SLEEP_MS / 1e3))
        process.kill()
        process.wait()
        assert not recorded & set(evaluations(log)[already:])
        assert recorded <= finished_archs(url)

    recorded, already = finished_archs(url), len(evaluations(log))
    assert len(recorded) < MAX_TRIALS  # the last kill came before the end
    subprocess.run(command, check=True)
    assert not recorded & set(evaluations(log)[already:])

    store = Store(url)
    study = store.study("toy")
    trials = store.trials(study)
    store.close()
    assert study.state == "finished"
    assert [t.number for t in trials] == list(range(MAX_TRIALS))
    assert {t.state for t in trials} == {"complete"}
    assert {t.number: (t.arch_id, t.values) for t in trials} == expected
    # only what was in flight at a kill was begun again: at most one trial per worker and kill
    again = sum(n - 1 for n in Counter(evaluations(log)).values())
    assert again <= num_kills * max(1, num_workers)
