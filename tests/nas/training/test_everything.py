"""One supernet over every causal operator: it trains in both precisions, and each operator has learnt something."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.evaluation.inherited import quality
from nas.tasks.base import Task
from nas.tasks.load import load_task
from nas.training.sandwich import Sandwich
from nas.training.settings import TrainingSettings
from nas.training.supernet_trainer import SupernetTrainer
from searchspace.load import load_space
from searchspace.recalibration import recalibrate
from searchspace.spec.arch import NONE, ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.validity import why_invalid

SPACE = load_space("everything")
SETTINGS = TrainingSettings(
    steps=80, batch_size=8, num_random=4, learning_rate=4e-3, warmup_steps=10, soft_target_weight=0.0
)


@cache
def task() -> Task:
    return load_task(SPACE.data, stem=SPACE.stem, head=SPACE.head)


def networks() -> dict[str, ArchSpec]:
    """The largest network with another operator in its second block, by `slot operator`; `none` has empty blocks."""
    largest = Sandwich(SPACE, num_random=0, seed=0).largest
    block = largest.blocks[0]
    empty = replace(block, mixer=NONE, ffn=NONE)
    found = {"none": replace(largest, blocks=tuple(empty for _ in largest.blocks))}
    encoding = Encoding(SPACE)
    for row in encoding.random(3000, np.random.default_rng(0)).tolist():
        for drawn in encoding.decode(tuple(row)).blocks:
            changed = {
                f"mixer {drawn.mixer.op}": replace(block, mixer=drawn.mixer),
                f"ffn {drawn.ffn.op}": replace(block, ffn=drawn.ffn),
            }
            for name, one in changed.items():
                arch = replace(largest, blocks=(block, one, *largest.blocks[2:]))
                if NONE not in (one.mixer, one.ffn) and name not in found and why_invalid(arch) is None:
                    found[name] = arch
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_one_supernet_of_every_operator_trains_and_each_operator_beats_an_empty_network(
    tmp_path: Path,
) -> None:
    """Every other step is in bfloat16; a loss or gradient that is not finite ends the training."""
    trainer = SupernetTrainer(SPACE, task(), SETTINGS, tmp_path)
    while trainer.state.step < SETTINGS.steps:
        precision = ("float32", "bfloat16")[trainer.state.step % 2]
        trainer.settings = replace(SETTINGS, precision=precision)
        trainer.step()
    validation = task().validation(128, 128)
    calibration = [task().batch(step, 32, seed=1).inputs for step in range(4)]
    losses = {}
    for name, arch in networks().items():
        model = trainer.supernet.extract(arch, copy=True)
        recalibrate(model, calibration)
        losses[name] = quality(model, validation)["loss"]
    assert all(torch.tensor(value).isfinite() for value in losses.values())
    assert {name: value for name, value in losses.items() if value > losses["none"]} == {}
