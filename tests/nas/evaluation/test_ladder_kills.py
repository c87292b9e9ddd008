"""A search that trains its networks rung by rung is killed on every runner, and ends as if it had not been."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from studies.errors import StoreError
from studies.store import Store

NUM_TRIALS = 44
KILLS = {"local": 7, "pool": 7, "workers": 6}
PATIENCE_SECONDS = 240
RECIPE = f"""
space = "tiny-lm"
objectives = ["loss", "flops"]
trials = {NUM_TRIALS}
searcher = "guided"
quality = "train"
ladder = ["quarter", "half"]
beat_baseline = false
lag = 4
validation_examples = 8
batch_size = 8

[alone]
steps = 8
batch_size = 2
warmup_steps = 1
"""

Trajectory = list[tuple[int, str, str, float]]


def nas(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NAS_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nas.cli.main", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(url: str) -> Trajectory:
    """The trials that are judged, with the losses to the last bit; nothing while there is no study yet."""
    with suppress(StoreError), closing(Store(url)) as store:
        trials = store.trials(store.study("s"))
        return [(t.number, t.arch_id, t.fidelity, t.values["loss"]) for t in trials if t.is_finished]
    return []


def driver(folder: Path, url: str, runner: str) -> subprocess.Popen[str]:
    begun = ("resume", "s") if finished(url) else ("search", "--recipe", "recipe.toml", "--study", "s")
    workers = ("--workers", "2") if runner == "pool" else ()
    return nas(folder, *begun, "--db", url, "--picture", "", "--runner", runner, *workers)


def undisturbed(folder: Path) -> Trajectory:
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    url = f"sqlite:///{folder}/whole.db"
    process = driver(folder, url, "local")
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, told
    return finished(url)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    return undisturbed(tmp_path_factory.mktemp("whole") / "study")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runner", KILLS)
def test_a_search_that_trains_goes_on_after_kills_with_the_same_trials(
    runner: str, whole: Trajectory, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    url = f"sqlite:///{tmp_path}/killed.db"
    rng = random.Random(runner)
    for moment in sorted(rng.sample(range(1, NUM_TRIALS - 4), KILLS[runner])):
        running = [driver(tmp_path, url, runner)]
        if runner == "workers":
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not Path(f"{tmp_path}/killed.db").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            running.append(nas(tmp_path, "worker", "--db", url))
        _await(url, moment, running)
        time.sleep(rng.uniform(0.0, 0.3))
        for process in rng.sample(running, len(running)):  # the driver or its worker first
            process.kill()
            process.communicate()
        known = finished(url)
        assert known == [t for t in whole if t[0] in {number for number, *_ in known}]
    last = [driver(tmp_path, url, runner)]
    if runner == "workers":
        last.append(nas(tmp_path, "worker", "--db", url))
    told, _ = last[0].communicate(timeout=PATIENCE_SECONDS)
    for process in last[1:]:
        process.kill()
        process.communicate()
    assert last[0].returncode == 0, told
    assert finished(url) == whole
    assert {rung for _, _, rung, _ in whole} == {"quarter", "half", ""}


def _await(url: str, count: int, running: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(finished(url)) < count:
        for process in running:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{len(finished(url))} of {count} trials are done"
        time.sleep(0.02)
