"""The loss, the metric and the even spread of validation examples, by their definitions."""

import math

import pytest
import torch
from torch import Tensor

from nas.tasks import base
from nas.tasks.base import Batch, accuracy, loss
from nas.tasks.digits import digits


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    targets = torch.randint(256, (3, 5))
    assert loss(torch.zeros(3, 5, 256), targets).item() == pytest.approx(math.log(256), rel=1e-6)


def test_the_loss_is_computed_in_float32_from_half_precision_logits() -> None:
    logits = torch.randn(4, 10).bfloat16()
    assert loss(logits, torch.arange(4)).dtype == torch.float32
    assert loss(logits, torch.arange(4)) == loss(logits.float(), torch.arange(4))


def test_invalid_positions_change_neither_loss_nor_accuracy() -> None:
    logits, targets = torch.randn(2, 6, 7), torch.randint(7, (2, 6))
    valid = torch.rand(2, 6) < 0.5
    valid[0, 0] = True
    noisy = torch.where(valid[..., None], logits, torch.randn(2, 6, 7))
    picked = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0][valid].mean()
    torch.testing.assert_close(loss(noisy, targets, valid), picked)
    assert accuracy(noisy, targets, valid) == accuracy(logits, targets, valid)


def test_accuracy_is_the_share_of_right_answers() -> None:
    logits = torch.eye(4)[torch.tensor([0, 1, 2, 2])]
    assert accuracy(logits, torch.arange(4)).item() == 0.75


def _rows(batches: list[Tensor]) -> list[bytes]:
    return [row.numpy().tobytes() for batch in batches for row in batch]


@pytest.mark.parametrize(("num_examples", "batch_size"), [(None, 64), (40, 7), (1, 8), (10**6, 500)])
def test_validation_takes_each_example_once_and_the_same_ones_again(
    num_examples: int | None, batch_size: int
) -> None:
    task = digits()
    batches = task.validation(num_examples, batch_size)
    images = [b.inputs for b in batches]
    expected = min(num_examples or 359, 359)
    held_out = _rows([task.held_out[0]])
    assert len(set(_rows(images))) == len(_rows(images)) == expected
    assert set(_rows(images)) <= set(held_out)
    assert max(len(i) for i in images) <= batch_size
    assert max(len(i) for i in images) - min(len(i) for i in images) <= 1
    assert _rows(images) == _rows([b.inputs for b in task.validation(num_examples, batch_size)])


def test_a_small_validation_is_spread_over_all_classes() -> None:
    (batch,) = digits().validation(50, 50)
    counts = torch.bincount(batch.targets, minlength=10)
    assert counts.min() >= 4
    assert counts.max() <= 6


@pytest.mark.parametrize(("num_examples", "batch_size"), [(0, 4), (4, 0)])
def test_an_empty_validation_is_refused(num_examples: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 example"):
        digits().validation(num_examples, batch_size)


def test_a_batch_of_many_logits_is_judged_in_parts_that_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, valid = torch.arange(35).view(7, 5), torch.ones(7, 5, dtype=torch.bool)
    batch = Batch(inputs, inputs + 1, valid)
    assert batch.parts(1000) == [batch]
    monkeypatch.setattr(base, "MOST_LOGITS", 3 * 5 * 1000)
    parts = batch.parts(1000)
    assert [len(p.inputs) for p in parts] == [3, 3, 1]
    for name in ("inputs", "targets", "valid"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
    assert len(batch.parts(10**9)) == 7  # one sequence at least
