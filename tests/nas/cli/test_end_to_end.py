"""The whole way of a newcomer on a space that trains in seconds: search, resume, choose, extract, run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.home import home
from studies.store import Store

SPACE = """
name = "small"
task = "causal_lm"
data = "plays"
d_model = [16, 32]
position = "rope"
final_norm = "rmsnorm"
stem = { op = "token_embedding", vocab_size = 256, max_len = 16 }
head = { op = "lm_head", vocab_size = 256 }
[[stages]]
num_blocks = 2
depth = [1, 2]
[blocks]
mixer = ["softmax_attention", "pooling", "none"]
ffn = [{ op = "mlp", d_ff = [16, 32], activation = "gelu" }, "none"]
norm = ["rmsnorm", "repbn"]
[operators.softmax_attention]
num_groups = [1, 2]
heads_per_group = 1
head_dim = 16
window = 0
sinks = 0
normalizer = "softmax"
qk_norm = "none"
score_bias = "none"
temperature = "none"
[operators.rope]
dim = 16
"""
RECIPE = """
space = "small"
objectives = ["loss", "latency", "memory"]
searcher = "{searcher}"
trials = {trials}
finalists = 3
lag = 4
validation_examples = 64
batch_size = 32
[workload]
seq_len = 16
[training]
steps = 30
batch_size = 8
"""


class Project:
    """A folder with a space, a recipe and a database."""

    def __init__(self, folder: Path, trials: int = 14, searcher: str = "nsga2") -> None:
        self.folder = folder
        (folder / "small.toml").write_text(SPACE)
        (folder / "recipe.toml").write_text(RECIPE.format(trials=trials, searcher=searcher))
        self.db = f"sqlite:///{folder}/nas.db"

    def search(self, *more: str) -> list[str]:
        files = ["--space", str(self.folder / "small.toml"), "--recipe", str(self.folder / "recipe.toml")]
        picture = str(self.folder / "front.png")
        return ["search", *files, "--study", "s", "--db", self.db, "--picture", picture, *more]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_search_resume_front_extract_and_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, *project.search())
    assert found["reason"] == "14 trials are done"
    more = printed(capsys, "resume", "s", "--db", project.db, "--trials", "+4", "--picture", "")
    assert more["reason"] == "18 trials are done"
    (listed,) = printed(capsys, "studies", "--db", project.db)
    assert listed["trials"]["complete"] == 18

    front = printed(capsys, "front", "s", "--db", project.db)
    assert len(front) >= 2
    for row in front:
        assert set(row["values"]) == {"loss", "latency", "memory"}
        assert row["latency"]["predicted"] == row["values"]["latency"]
        assert len(row["arch"]["blocks"]) == 2
    assert sum(row["latency"]["measured"] is not None for row in front) >= min(3, len(front))

    for which in (["--knee"], ["--trial", str(front[0]["number"])], ["--max", "latency=1000"]):
        out = project.folder / f"out{which[-1]}"
        done = printed(capsys, "extract", "s", "--db", project.db, *which, "--out", str(out))
        run = subprocess.run(
            [sys.executable, str(out / "run.py")], capture_output=True, text=True, check=True
        )
        assert json.loads(run.stdout.splitlines()[-1])["loss"] == pytest.approx(done["loss"], abs=1e-4)
    assert main(["extract", "s", "--db", project.db, "--max", "latency=0", "--out", "x"]) == 2
    assert "no network of the front keeps the bounds: it has latency from" in capsys.readouterr().err
    assert not Path("x").exists()
    tuned = [*("extract", "s", "--db", project.db, "--knee"), "--out", str(project.folder / "tuned")]
    done = printed(capsys, *tuned, "--finetune", "4", "--format", "torch-export")
    assert done["loss"] != done["inherited_loss"]
    assert [e["file"] for e in done["exports"]] == ["model.safetensors", "model.pt2"]
    solve_within_a_budget(project, capsys)

    print_for_people(project, capsys)


def solve_within_a_budget(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """From the study's supernet, and again from the table that was kept."""
    out = str(project.folder / "solved")
    command = ["solve", "s", "--db", project.db, "--max", "parameters=20000", "--max", "latency=1000"]
    found = printed(capsys, *command, "--check", "5", "--out", out)
    assert found["parameters"] <= 20000
    assert len(found["check"]["measured"]) == 5
    (table,) = (home() / "block_tables").glob("*/library.json")
    made_at = table.stat().st_mtime_ns
    again = printed(capsys, *command)
    assert again["arch_id"] == found["arch_id"]
    assert table.stat().st_mtime_ns == made_at
    config = json.loads((Path(out) / "config.json").read_text())
    assert config["arch_id"] == found["arch_id"]
    assert main([*command[:4], "--max", "loss=1"]) == 2
    assert "--max loss: it can't be bounded; bound one of" in capsys.readouterr().err


def print_for_people(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The same listings as text."""
    for arguments in (["studies"], ["front", "s"]):
        assert main([*arguments, "--db", project.db]) == 0
    text = capsys.readouterr().out
    assert "measured (ms)" in text
    assert "18 complete" in text


def trajectory(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> dict[int, tuple[str, dict[str, float]]]:
    import nas

    return {t.number: (t.arch_id, t.values) for t in nas.read("s", db=project.db).trials}


def has_study(url: str) -> bool:
    """Whether a search came as far as to record its study before it was killed; else it is begun again."""
    with closing(Store(url)) as store:
        return bool(store.studies())


def test_killed_at_any_moment_and_resumed_it_ends_as_if_it_had_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while training, while profiling and while searching; the supernet and profile are shared by content."""
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    killed, whole = Project(tmp_path / "killed"), Project(tmp_path / "whole")
    rng = random.Random(0)
    command = [sys.executable, "-m", "nas.cli.main"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kills = 0
    for attempt in range(12):
        started = (
            ["resume", "s", "--db", killed.db, "--picture", ""] if has_study(killed.db) else killed.search()
        )
        process = subprocess.Popen([*command, *started, "--json"], env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=2.5 + 3.0 * rng.random() + attempt)
            if process.returncode == 0:
                break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 1
    assert main([*whole.search(), "--json"]) == 0
    capsys.readouterr()
    assert trajectory(killed, capsys) == trajectory(whole, capsys)


def test_a_damaged_supernet_is_named_and_the_study_stays(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*project.search(), "--json"]) == 0
    (weights,) = [p for p in (home() / "supernets").glob("*/weights.safetensors") if _newest(p)]
    intact = weights.read_bytes()
    try:
        weights.write_bytes(intact[: len(intact) // 2])
        assert main(["resume", "s", "--db", project.db, "--trials", "+2"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(weights) in error
    finally:
        weights.write_bytes(intact)
    assert main(["resume", "s", "--db", project.db, "--trials", "+2", "--picture", "", "--json"]) == 0


def _newest(path: Path) -> bool:
    others = (home() / "supernets").glob("*/weights.safetensors")
    return path.stat().st_mtime == max(p.stat().st_mtime for p in others)


def test_a_pool_finds_what_one_process_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for runner in ("local", "pool"):
        (tmp_path / runner).mkdir()
        project = Project(tmp_path / runner)
        assert main([*project.search("--runner", runner), "--json"]) == 0
        capsys.readouterr()
        found.append(trajectory(project, capsys))
    assert [(n, arch) for n, (arch, _) in found[0].items()] == [
        (n, arch) for n, (arch, _) in found[1].items()
    ]
