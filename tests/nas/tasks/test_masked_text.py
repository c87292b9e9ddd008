"""Bytes to fill in: how many are hidden and how, what a batch depends on, what is scored."""

import math

import pytest
import torch

from nas.tasks.base import IGNORED, accuracy, loss
from nas.tasks.masked_text import MASK, MaskedTextTask, masked
from nas.tasks.text import plays

CONTEXT = 64


@pytest.fixture(scope="module")
def task() -> MaskedTextTask:
    return masked(plays(CONTEXT))


def test_every_window_hides_fifteen_percent_and_shows_the_rest(task: MaskedTextTask) -> None:
    for batch, part in ((task.batch(3, 50, 0), task.train), (task.validation(50, 50)[0], task.held_out)):
        assert torch.equal(batch.counted.sum(1), torch.full((50,), round(0.15 * CONTEXT)))
        assert (batch.targets[~batch.counted] == IGNORED).all()
        text, whole = bytes(part[0].tolist()), batch.targets.where(batch.counted, batch.inputs)
        assert all(bytes(row.tolist()) in text for row in whole)


def test_eight_of_ten_hidden_bytes_are_masked_one_is_another_and_one_is_shown(task: MaskedTextTask) -> None:
    """Shares over 10,000 hidden bytes lie within four standard deviations; a random byte can be the right one."""
    batch = task.batch(0, 1000, 0)
    shown, targets = batch.inputs[batch.counted], batch.targets[batch.counted]
    n = len(targets)
    for found, p in (((shown == MASK).sum(), 0.8), ((shown == targets).sum(), 0.1 + 0.1 / 256)):
        assert abs(int(found) - p * n) < 4 * math.sqrt(n * p * (1 - p))
    changed = shown[(shown != MASK) & (shown != targets)]
    assert changed.max() < 256
    assert len(changed.unique()) > 200


def test_every_place_is_hidden_equally_often(task: MaskedTextTask) -> None:
    n, p = 4000, round(0.15 * CONTEXT) / CONTEXT
    counts = task.batch(0, n, 1).counted.sum(0)
    assert (counts - n * p).abs().max() < 5 * math.sqrt(n * p * (1 - p))


def test_a_batch_depends_on_seed_and_step_alone(task: MaskedTextTask) -> None:
    first, again = task.batch(2, 8, 5), masked(plays(CONTEXT)).batch(2, 8, 5)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.counted, task.batch(3, 8, 5).counted)


def test_what_is_hidden_in_a_held_out_window_does_not_depend_on_its_batch(task: MaskedTextTask) -> None:
    few, many = ({tuple(r.tolist()) for b in task.validation(40, size) for r in b.inputs} for size in (7, 40))
    assert few == many


def test_only_hidden_bytes_are_scored(task: MaskedTextTask) -> None:
    batch = task.batch(0, 4, 0)
    logits = torch.randn(4, CONTEXT, 256)
    picked = -logits.log_softmax(-1)[batch.counted].gather(-1, batch.targets[batch.counted].unsqueeze(-1))
    torch.testing.assert_close(loss(logits, batch.targets), picked.mean())
    right = torch.nn.functional.one_hot(batch.targets.clamp_min(0), 256).float()
    assert accuracy(right, batch.targets) == 1
    assert accuracy(-right, batch.targets) == 0


def test_the_baselines_are_those_of_the_text(task: MaskedTextTask) -> None:
    assert task.baseline_losses() == plays(CONTEXT).baseline_losses()
