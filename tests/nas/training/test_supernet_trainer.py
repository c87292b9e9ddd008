"""What a training step changes, and that a training is the same however often it is killed."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nas.tasks.base import Task, loss
from nas.training.checkpoint import load_supernet
from nas.training.sandwich import Sandwich
from nas.training.supernet_trainer import (
    Progress,
    SupernetTrainer,
    TrainingDiverged,
    held_out_loss,
    learning_rate,
    soft_loss,
    train_supernet,
)
from searchspace.supernet.supernet import Supernet
from tests.nas.training import toy

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path: Path) -> Task:
    return toy.task(tmp_path)


@pytest.mark.parametrize("killed_at", [1, 17, 38])
def test_a_killed_and_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, text: Task, killed_at: int
) -> None:
    command = [sys.executable, "-m", "tests.nas.training.toy", str(tmp_path), "0.05"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == killed_at:
                process.kill()
                break
    assert not (tmp_path / "supernet/supernet.json").exists()
    seen: list[Progress] = []
    resumed = train_supernet(toy.space(), text, toy.SETTINGS, tmp_path / "supernet", seen.append)
    assert killed_at <= seen[0].step <= killed_at + 2  # a checkpoint after every step: at most one is lost
    whole = train_supernet(toy.space(), text, toy.SETTINGS, tmp_path / "whole")
    for name, tensor in whole.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), name


def test_the_switch_to_soft_targets_survives_an_interruption(tmp_path: Path, text: Task) -> None:
    trainer = SupernetTrainer(toy.space(), text, toy.SETTINGS, tmp_path / "supernet")
    trainer.threshold = math.inf
    trainer.step()
    trainer.save()
    resumed = SupernetTrainer(toy.space(), text, toy.SETTINGS, tmp_path / "supernet")
    assert resumed.state.switch_step == 1
    assert resumed.phase == "soft targets"


def test_gradients_reach_only_the_slices_of_the_networks_that_are_trained(text: Task) -> None:
    supernet = Supernet(toy.space())
    smallest = Sandwich(toy.space(), 0, seed=0).smallest
    batch = text.batch(0, 4, 0)
    loss(supernet.forward(smallest, batch.inputs), batch.targets).backward()
    used = supernet.extract(smallest).state_dict()
    for name, tensor in supernet.tensors.items():
        if name not in used:
            assert tensor.grad is None, name
            continue
        outside = torch.ones_like(tensor, dtype=torch.bool)
        # The toy space has one key/value group in its smallest network, so that slices are prefixes of dimensions.
        outside[tuple(slice(0, size) for size in used[name].shape)] = False
        assert tensor.grad is not None
        assert (tensor.grad[outside] == 0).all(), name
        assert (tensor.grad[~outside] != 0).any(), name


def test_soft_targets_change_nothing_before_the_switch_and_something_after(tmp_path: Path, text: Task) -> None:
    def weights_after(steps: int, weight: float, threshold: float) -> torch.Tensor:
        settings = dataclasses.replace(toy.SETTINGS, soft_target_weight=weight)
        trainer = SupernetTrainer(toy.space(), text, settings, tmp_path)
        trainer.threshold = threshold
        for _ in range(steps):
            trainer.step()
        return torch.cat([t.detach().flatten() for t in trainer.trained.values()])

    assert torch.equal(weights_after(3, 0.0, -math.inf), weights_after(3, 0.9, -math.inf))
    assert torch.equal(weights_after(1, 0.0, math.inf), weights_after(1, 0.9, math.inf))
    assert not torch.equal(weights_after(2, 0.0, math.inf), weights_after(2, 0.9, math.inf))


def test_soft_targets_begin_with_the_step_after_the_largest_beats_the_bigram_entropy(
    tmp_path: Path, text: Task
) -> None:
    settings = dataclasses.replace(toy.SETTINGS, steps=150)
    seen: list[Progress] = []
    train_supernet(toy.space(), text, settings, tmp_path / "supernet", seen.append)
    bound = text.baseline_losses()["split_bigram_entropy"]
    assert [p.phase for p in seen] == ["soft targets" if p.loss < bound else "hard labels" for p in seen]
    assert seen[-1].phase == "soft targets"


def test_the_loss_falls_below_the_bigram_entropy_on_text_that_needs_two_bytes(
    tmp_path: Path, text: Task
) -> None:
    supernet = train_supernet(
        toy.space(), text, dataclasses.replace(toy.SETTINGS, steps=150), tmp_path / "supernet"
    )
    largest = Sandwich(toy.space(), 0, seed=0).largest
    assert held_out_loss(supernet, largest, text) < text.baseline_losses()["split_bigram_entropy"]


def test_a_loss_that_is_not_finite_stops_the_training_and_leaves_the_checkpoint(
    tmp_path: Path, text: Task
) -> None:
    trainer = SupernetTrainer(toy.space(), text, toy.SETTINGS, tmp_path)
    trainer.step()
    trainer.save()
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    with torch.no_grad():
        next(iter(trainer.trained.values())).fill_(math.nan)
    message = rf"step 2: .*{trainer.sandwich.largest.id} is nan; train with a learning rate smaller than 0\.01"
    with pytest.raises(TrainingDiverged, match=message):
        trainer.step()
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == before


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path: Path, text: Task) -> None:
    settings = dataclasses.replace(toy.SETTINGS, steps=2)
    train_supernet(toy.space(), text, settings, tmp_path)
    seen: list[Progress] = []
    again = train_supernet(toy.space(), text, settings, tmp_path, seen.append)
    assert seen == []
    assert all(torch.equal(again.tensors[n], t) for n, t in load_supernet(tmp_path).tensors.items())


def test_progress_counts_every_step_down_to_no_seconds_left(tmp_path: Path, text: Task) -> None:
    seen: list[Progress] = []
    train_supernet(toy.space(), text, dataclasses.replace(toy.SETTINGS, steps=5), tmp_path, seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5]
    assert [p.seconds_left > 0 for p in seen] == [True] * 4 + [False]


def test_the_learning_rate_rises_linearly_and_falls_to_its_least_ratio() -> None:
    settings = dataclasses.replace(
        toy.SETTINGS, steps=104, warmup_steps=4, learning_rate=1.0, min_learning_rate_ratio=0.2
    )
    assert [learning_rate(settings, s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(settings, 54) == pytest.approx(0.6)  # halfway between 1.0 and 0.2
    assert learning_rate(settings, 104) == pytest.approx(0.2)


def test_the_soft_loss_is_cross_entropy_against_the_teacher_less_the_entropy_of_the_teacher() -> None:
    logits, teacher = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    p = teacher.softmax(-1)
    expected = -(p * F.log_softmax(logits, -1)).sum(-1).mean() + (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(soft_loss(logits, teacher).double(), expected, rtol=1e-5, atol=1e-6)
    assert soft_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
