"""`make gpu` starts on a machine that has torch, triton and numpy only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.__main__ import _is_well

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


def test_the_gpu_run_needs_torch_and_numpy_only_and_counts_what_failed_before_or_was_not_reached(
    tmp_path: Path,
) -> None:
    done = {"cases": 2, "reached": 2, "failures": {"attention": "result 0 errs"}}
    (tmp_path / "kernels.json").write_text(json.dumps(done))
    (tmp_path / "contracts.json").write_text(json.dumps({"cases": 1, "reached": 0, "failures": {}}))
    found = run(tmp_path, "cpu")
    assert found.returncode == 1, found.stderr
    assert "kernels: done before, 1 failures, 0 of 2 not reached" in found.stdout
    assert "attention: result 0 errs" in found.stdout
    again = json.loads((tmp_path / "contracts.json").read_text())
    assert again["cases"] > 1  # it was run again
    assert again["reached"] == 0  # no minute was given
    assert len(list(tmp_path.iterdir())) <= 8  # what comes back from a rented machine


def test_the_gpu_run_is_well_only_where_everything_was_reached_and_nothing_failed(tmp_path: Path) -> None:
    whole = {"cases": 2, "reached": 2, "failures": {}}
    assert _is_well(whole)
    assert not _is_well(whole | {"reached": 1})
    assert not _is_well(whole | {"failures": {"attention": "result 0 errs"}})


def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run(tmp_path, "cuda")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
