"""What a training step changes, and that a training is the same however often it is killed."""

import dataclasses
import math
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nas.tasks.base import Task, loss
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Trained:
    """A training that ran to its end, with everything it said."""

    folder: Path
    supernet: Supernet
    progress: tuple[Progress, ...]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    progress: list[Progress] = []
    supernet = train_supernet(
        toy.space(), toy.task(folder), toy.SETTINGS, folder / "supernet", progress.append
    )
    return Trained(folder / "supernet", supernet, tuple(progress))


@pytest.fixture
def text(tmp_path: Path) -> Task:
    return toy.task(tmp_path)


def test_a_killed_and_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, text: Task
) -> None:
    step = random.Random().randint(1, toy.SHORT.steps - 2)
    assert toy.kill_at(step, tmp_path) == -signal.SIGKILL
    seen: list[Progress] = []
    resumed = train_supernet(toy.space(), text, toy.SHORT, tmp_path / "supernet", seen.append)
    assert seen[0].step > step  # what was said was kept
    whole = train_supernet(toy.space(), text, toy.SHORT, tmp_path / "whole")
    for name, tensor in whole.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), (name, step)


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


def test_a_step_moves_every_weight_against_its_own_gradient(tmp_path: Path, text: Task) -> None:
    settings = dataclasses.replace(toy.SETTINGS, weight_decay=0.0, warmup_steps=0)
    trainer = SupernetTrainer(toy.space(), text, settings, tmp_path)
    before = {name: tensor.detach().clone() for name, tensor in trainer.trained.items()}
    trainer.step()  # the first step of Adam is one learning rate long in every weight that has a gradient
    for name, tensor in trainer.trained.items():
        if tensor.grad is not None:
            clear = tensor.grad.abs() > 1e-5
            moved = (before[name] - tensor.detach())[clear] / settings.learning_rate
            torch.testing.assert_close(moved, tensor.grad[clear].sign(), rtol=0, atol=2e-3)


def test_soft_targets_change_nothing_before_the_switch_and_something_after(
    tmp_path: Path, text: Task
) -> None:
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
    trained: Trained, text: Task
) -> None:
    bound = text.baseline_losses()["split_bigram_entropy"]
    switch = next(i for i, p in enumerate(trained.progress) if p.loss < bound)
    assert [p.phase for p in trained.progress] == ["hard labels"] * switch + ["soft targets"] * (60 - switch)


def test_the_loss_falls_below_the_bigram_entropy_on_text_that_needs_two_bytes(
    trained: Trained, text: Task
) -> None:
    largest = Sandwich(toy.space(), 0, seed=0).largest
    assert held_out_loss(trained.supernet, largest, text) < text.baseline_losses()["split_bigram_entropy"]


def test_progress_counts_every_step_down_to_no_seconds_left(trained: Trained) -> None:
    assert [p.step for p in trained.progress] == list(range(1, 61))
    assert [p.seconds_left > 0 for p in trained.progress] == [True] * 59 + [False]


def test_a_finished_training_is_loaded_and_not_repeated(trained: Trained, text: Task) -> None:
    seen: list[Progress] = []
    again = train_supernet(toy.space(), text, toy.SETTINGS, trained.folder, seen.append)
    assert seen == []
    assert all(torch.equal(again.tensors[n], t) for n, t in trained.supernet.tensors.items())


def test_a_loss_that_is_not_finite_stops_the_training_and_leaves_the_checkpoint(
    tmp_path: Path, text: Task
) -> None:
    trainer = SupernetTrainer(toy.space(), text, toy.SETTINGS, tmp_path)
    trainer.step()
    trainer.save()
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    with torch.no_grad():
        next(iter(trainer.trained.values())).fill_(math.nan)
    message = (
        rf"step 2: .*{trainer.sandwich.largest.id} is nan; train with a learning rate smaller than 0\.03"
    )
    with pytest.raises(TrainingDiverged, match=message):
        trainer.step()
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == before


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
