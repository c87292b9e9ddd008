"""A space that trains in milliseconds, a text that can be learned, and a training to kill."""

from __future__ import annotations

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


def main(folder: Path, pause: float) -> None:
    """Train in `folder`, saying each step's number, slowly enough to be killed anywhere."""

    def say(progress: Progress) -> None:
        print(progress.step, flush=True)
        time.sleep(pause)

    torch.set_num_threads(1)
    train_supernet(space(), task(folder), SHORT, folder / "supernet", say)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
