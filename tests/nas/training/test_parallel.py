"""Parts of a batch, one after the other or on several processes, train as the whole batch does."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.tasks.base import IGNORED
from nas.training.parallel import ProcessLost, Share, helpers
from nas.training.placement import parts_of, weighed
from nas.training.supernet_trainer import Progress, SupernetTrainer, train_supernet
from tests.nas.training import toy


def test_parts_hold_every_example_once_in_order(tmp_path: Path) -> None:
    batch = toy.task(tmp_path).batch(0, 8, 0)
    parts = parts_of(batch, 3)
    assert [len(p.inputs) for p in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([p.inputs for p in parts]), batch.inputs)
    assert torch.equal(torch.cat([p.targets for p in parts]), batch.targets)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    def trained(parts: int) -> SupernetTrainer:
        settings = replace(toy.SETTINGS, accumulation=parts)
        trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), settings, tmp_path)
        trainer.threshold = float(
            "inf"
        )  # soft targets from the second step on, where weights still are the same
        trainer.optimizer.step = lambda: None  # type: ignore[assignment,misc]
        trainer.step()
        trainer.step()
        return trainer

    whole, in_parts = trained(1), trained(3)  # 3, 3 and 2 examples
    assert in_parts.state.loss == pytest.approx(whole.state.loss, rel=1e-5)
    for name, tensor in whole.trained.items():
        if tensor.grad is None:
            assert in_parts.trained[name].grad is None
        else:
            torch.testing.assert_close(in_parts.trained[name].grad, tensor.grad, rtol=1e-4, atol=1e-6)


def test_a_part_without_targets_adds_nothing(tmp_path: Path) -> None:
    settings = replace(toy.SETTINGS, accumulation=2)
    trainer = SupernetTrainer(toy.space(), toy.task(tmp_path), settings, tmp_path)
    batch = trainer.task.batch(0, 8, settings.seed)
    first = replace(batch, targets=batch.targets.clone().index_fill_(0, torch.arange(4, 8), IGNORED))
    trainer._accumulate(weighed(first, 2))
    expected = {n: t.grad for n, t in trainer.trained.items()}
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer._accumulate([(replace(batch, inputs=batch.inputs[:4], targets=batch.targets[:4]), 1.0)])
    for name, tensor in trainer.trained.items():
        if tensor.grad is not None:
            torch.testing.assert_close(expected[name], tensor.grad, rtol=1e-4, atol=1e-6)


def test_two_processes_train_what_one_trains_with_two_parts(tmp_path: Path) -> None:
    task = toy.task(tmp_path)
    one = replace(toy.SETTINGS, steps=8, accumulation=2)
    alone = train_supernet(toy.space(), task, one, tmp_path / "one")
    together = train_supernet(toy.space(), task, replace(one, processes=2), tmp_path / "two")
    for name, tensor in alone.tensors.items():
        assert torch.equal(together.tensors[name], tensor), name  # a sum of two has one order only


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "victim"), [(2, 0), (2, 1), (3, 0)])
def test_a_training_on_several_processes_that_lost_one_goes_on_bit_for_bit(
    tmp_path: Path, processes: int, victim: int
) -> None:
    """None of its processes outlives the one that was killed, the first or a helper."""
    step = random.Random().randint(2, toy.SHORT.steps - 2)
    assert toy.kill_at(step, tmp_path, processes, victim) != 0
    settings, seen = toy.shared_by(processes), list[Progress]()
    resumed = train_supernet(toy.space(), toy.task(tmp_path), settings, tmp_path / "supernet", seen.append)
    assert seen[0].step > step  # what was said was kept
    whole = train_supernet(toy.space(), toy.task(tmp_path), settings, tmp_path / "whole")
    for name, tensor in whole.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), (name, step)


def test_a_process_that_ends_early_is_named_as_the_reason(tmp_path: Path) -> None:
    gradients: list[torch.Tensor | None] = [torch.ones(3), None]
    message = "a process of this data parallel training has ended"
    with pytest.raises(ProcessLost, match=message), helpers(2, leave, ()) as share:
        share.sum(torch.tensor(1.0), gradients)


def leave(share: Share) -> None:
    """What a process does that does not take part."""
