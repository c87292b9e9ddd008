"""`make gpu` starts on a machine that has torch, triton and numpy only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = (
    "pytest",
    "sqlalchemy",
    "alembic",
    "rich",
    "optuna",
    "pymoo",
    "safetensors",
    "scipy",
    "sklearn",
    "matplotlib",
)
RUN = """
import runpy, sys
for name in {absent}:
    sys.modules[name] = None
sys.argv = ["tests.gpu", "--out", {out!r}, "--device", {device!r}, "--minutes", "0"]
runpy.run_module("tests.gpu", run_name="__main__")
"""


def run(out: Path, device: str) -> subprocess.CompletedProcess[str]:
    code = RUN.format(absent=ABSENT, out=str(out), device=device)
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_the_gpu_run_needs_torch_and_numpy_only_and_keeps_what_is_done(tmp_path: Path) -> None:
    first = run(tmp_path, "cpu")
    assert first.returncode == 0, first.stderr
    assert json.loads((tmp_path / "contracts.json").read_text())["reached"] == 0  # no minute was given
    again = run(tmp_path, "cpu")
    assert "contracts: done before" in again.stdout


def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run(tmp_path, "cuda")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
