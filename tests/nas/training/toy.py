"""A space that trains in milliseconds, a text that can be learned, and a training to kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from nas.tasks.base import Task
from nas.tasks.text import user_text
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import Progress, train_supernet
from searchspace.load import resolve
from searchspace.spec.space import SpaceSpec

ROOT = Path(__file__).parents[3]
CONTEXT = 8
SETTINGS = TrainingSettings(steps=60, batch_size=8, learning_rate=0.03, warmup_steps=4, seed=3)
SHORT = replace(SETTINGS, steps=12, accumulation=3, checkpoint_seconds=0.0)  # a checkpoint after every step


def space() -> SpaceSpec:
    return resolve(
        {
            "name": "toy",
            "task": "causal_lm",
            "data": "text",
            "d_model": [8, 16],
            "stem": {"op": "token_embedding", "vocab_size": 256, "max_len": CONTEXT},
            "head": {"op": "lm_head", "vocab_size": 256},
            "stages": [{"num_blocks": 2, "depth": [1, 2]}],
            "blocks": {"mixer": ["linear_attention", "pooling", "none"], "ffn": ["mlp", "none"]},
            "operators": {
                "linear_attention": {"num_groups": [1, 2], "heads_per_group": 1, "head_dim": 16},
                "pooling": {"window": 3},
                "mlp": {"d_ff": [16, 32]},
            },
        }
    )


def task(folder: Path) -> Task:
    """Bytes of which each but the first of a word follows from the two before it."""
    path = folder / "text.txt"
    path.write_text("abacadae" * 200)
    return user_text(str(path), CONTEXT)


def shared_by(processes: int) -> TrainingSettings:
    return replace(SHORT, processes=processes)


def kill_at(step: int, folder: Path, processes: int = 1, victim: int = 0) -> int:
    """Train in processes of their own and kill the one of rank `victim` once `step` is said; the exit status of rank 0.

    All of them have ended when this returns.
    """
    command = [sys.executable, "-m", "tests.nas.training.toy", str(folder), str(processes)]
    group = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with group as process:
        assert process.stdout is not None
        for line in process.stdout:
            said, *ranks = map(int, line.split())
            if said == step:
                os.kill(ranks[victim], signal.SIGKILL)
                break
        status = process.wait()
    _wait_until_gone(group.pid)
    return status


def _wait_until_gone(group: int) -> None:
    """Raises TimeoutError where a process of the group outlives rank 0."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise TimeoutError(f"processes of group {group} are still there")


def main(folder: Path, processes: int) -> None:
    """Train in `folder`, saying each step's number and all processes, slowly enough to be killed anywhere."""

    def say(progress: Progress) -> None:
        others = sorted(p.pid for p in multiprocessing.active_children() if p.pid)
        print(progress.step, os.getpid(), *others, flush=True)
        time.sleep(0.05)

    torch.set_num_threads(1)
    train_supernet(space(), task(folder), shared_by(processes), folder / "supernet", say)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
