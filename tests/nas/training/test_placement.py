"""A training on a device computes there, and waits for it only where it reads numbers: on `meta`, which has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nas.errors import UsageError
from nas.tasks.base import IGNORED, Batch, accuracy, loss
from nas.training.alone import Training
from nas.training.checkpoint import TrainingState
from nas.training.placement import READ_EVERY, Batches, device_of, is_read_after
from nas.training.supernet_trainer import SupernetTrainer, autocast, soft_loss, train_supernet
from searchspace.contracts.devices import MadeOnCpu
from searchspace.spec.arch import OpSpec
from tests.nas.training import toy
from tests.nas.training.test_alone import SETTINGS, network

META = torch.device("meta")


@pytest.mark.parametrize("switch_step", [None, 0])
def test_a_supernet_step_makes_no_tensor_on_the_cpu_and_reads_no_number(
    tmp_path: Path, switch_step: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(toy.SETTINGS, accumulation=2)
    trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), settings, tmp_path, device=META)
    trainer.state = TrainingState(switch_step=switch_step)
    parts = trainer.batches.at(0)
    monkeypatch.setattr(trainer.batches, "at", lambda step: parts)
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)  # torch has none for meta in one kernel
    with MadeOnCpu() as made:
        trainer.step()
    assert made.operations == []
    assert trainer.state.step == 1
    assert not trainer.is_read  # so nothing is saved or said of it
    assert any(t.grad is not None for t in trainer.trained.values())


def test_a_step_of_a_training_alone_makes_no_tensor_on_the_cpu_and_reads_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = toy.task(tmp_path)
    training = Training(network(norm=OpSpec("batchnorm")), text, SETTINGS, device=META)
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    batch = text.batch(0, 4, 0).to(META)
    with MadeOnCpu() as made:
        training.step(0, batch, until=SETTINGS.steps)
    assert made.operations == []


def test_losses_of_padded_text_and_of_vectors_are_computed_on_the_device() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    targets = torch.tensor([[1, IGNORED, 2], [3, 0, 1]])
    text = Batch(torch.zeros(2, 3, dtype=torch.long), targets, valid).to(META)
    vectors = Batch(torch.zeros(2, 3, dtype=torch.long), torch.randn(2, 3, 4), valid).to(META)
    logits = torch.empty(2, 3, 4, device=META)
    with MadeOnCpu() as made:
        loss(logits, text.targets, text.valid, text.rows)
        soft_loss(logits, logits, text.rows)
        loss(logits, vectors.targets, vectors.valid, vectors.rows)
        accuracy(logits, text.targets, text.valid)
    assert made.operations == []
    assert text.rows is not None
    assert vectors.rows is not None
    assert text.rows.shape == (2,)
    assert vectors.rows.shape == (3,)


def test_rows_are_the_counted_targets() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    targets = torch.tensor([[1, IGNORED, 2], [3, 0, 1]])
    batch = Batch(targets, targets, valid)
    assert batch.rows is not None
    assert torch.equal(targets.flatten()[batch.rows], targets[batch.counted])
    assert Batch(targets[:, :1], targets[:, :1]).rows is None


def test_the_parts_of_a_batch_are_those_of_the_task_on_the_device(tmp_path: Path) -> None:
    text = toy.task(tmp_path)
    first, second = Batches(text, toy.SETTINGS, torch.device("cpu"), count=2).at(5)
    whole = text.batch(5, toy.SETTINGS.batch_size, toy.SETTINGS.seed)
    assert torch.equal(torch.cat([first[0].inputs, second[0].inputs]), whole.inputs)
    assert first[1] + second[1] == 1
    assert Batches(text, toy.SETTINGS, META).at(5)[0][0].targets.device == META


def test_numbers_are_read_at_every_step_of_a_cpu_and_at_the_same_steps_of_a_device_in_every_process() -> None:
    assert all(is_read_after(step, 40, torch.device("cpu")) for step in range(1, 41))
    read = [step for step in range(1, 41) if is_read_after(step, 40, META)]
    assert read == [READ_EVERY, 2 * READ_EVERY, 40]


def test_low_precision_is_that_of_the_device() -> None:
    low = dataclasses.replace(SETTINGS, precision="bfloat16")
    with pytest.warns(UserWarning, match="CUDA is not available"):
        found = autocast(low, torch.device("cuda"))
    assert isinstance(found, torch.autocast)
    assert (found.device, found.fast_dtype) == ("cuda", torch.bfloat16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        device_of("cuda")


def test_several_processes_are_for_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="processes: 2"):
        train_supernet(toy.space(), toy.task(tmp_path), toy.shared_by(2), tmp_path / "s", device=META)
