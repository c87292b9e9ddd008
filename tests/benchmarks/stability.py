"""A supernet over the space hybrid-2026 trains in both precisions with finite losses and gradients.

The space has all its operators and settings at a quarter of its width, so that every kind of mixing is trained, in
about two minutes of one core per precision. The trainer checks the loss and gradient norm of every network in every
step and raises TrainingDiverged at the first that is not finite. Reported are CPU seconds and the held-out
loss of the largest network, which must be below that of predicting bytes by their frequencies.
"""

from __future__ import annotations

import tempfile
import time
import tomllib
from pathlib import Path

from nas.tasks.load import load_task
from nas.training.sandwich import Sandwich
from nas.training.settings import PRECISIONS, TrainingSettings
from nas.training.supernet_trainer import held_out_loss, train_supernet
from searchspace.load import resolve
from tests.benchmarks.rows import Row

SPACE = Path("searchspace/spaces/hybrid-2026.toml")
STEPS, EXAMPLES = 200, 256


def run() -> list[Row]:
    """Return a row per precision. Raises AssertionError where the held-out loss is not below the baseline."""
    data = tomllib.loads(SPACE.read_text(encoding="utf-8"))
    data |= {"name": "hybrid-2026-tiny", "d_model": [16, 32], "stem": data["stem"] | {"max_len": 64}}
    data["operators"]["softmax_attention"]["window"] = [0, 16]
    space = resolve(data)
    task = load_task(space.data, stem=space.stem, head=space.head)
    baseline = task.baseline_losses()["unigram"]
    rows = []
    for precision in PRECISIONS:
        settings = TrainingSettings(STEPS, batch_size=8, precision=precision, checkpoint_seconds=1e9)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            supernet = train_supernet(space, task, settings, Path(folder))
            seconds = time.process_time() - start
        found = held_out_loss(supernet, Sandwich(space, 0, 0).largest, task, EXAMPLES)
        if not found < baseline:
            raise AssertionError(f"{precision}: held-out loss {found} is not below {baseline}")
        name = f"{STEPS} steps on hybrid-2026, {precision}"
        rows.append(
            Row(
                name,
                seconds,
                seconds,
                seconds,
                "busy seconds",
                baseline=f"loss {found:.3f}, of frequencies {baseline:.3f}",
            )
        )
    return rows
