"""Digits of both sizes: the split, the batches and the loss of a constant answer."""

import math
from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from nas.tasks.digits import digits, mnist


def test_the_split_is_the_whole_set_with_a_fifth_of_each_class_held_out() -> None:
    task = digits()
    images, labels = load_digits(return_X_y=True)
    parts = [(x.flatten(1) * 16, y) for x, y in (task.train, task.held_out)]
    rows = [Counter((tuple(r.tolist()), int(c)) for r, c in zip(x, y, strict=True)) for x, y in parts]
    assert rows[0] + rows[1] == Counter(
        (tuple(r), int(c)) for r, c in zip(images.tolist(), labels, strict=True)
    )
    assert not rows[0].keys() & rows[1].keys()
    for c in range(10):
        assert (task.held_out[1] == c).sum() == round((labels == c).sum() / 5)


def test_images_lie_between_0_and_1() -> None:
    task = digits()
    images, labels = task.train
    assert task.image_shape == (1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() == 0
    assert images.max() == 1


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again = digits().batch(2, 32, 5), digits().batch(2, 32, 5)
    other = digits().batch(3, 32, 5)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)


def test_images_keep_their_labels_in_batches() -> None:
    task = digits()
    for batch, (images, labels) in (
        (task.batch(0, 16, 0), task.train),
        (task.validation(16, 4)[1], task.held_out),
    ):
        for image, label in zip(batch.inputs, batch.targets, strict=True):
            same = (images == image).flatten(1).all(1)
            assert set(labels[same].tolist()) == {int(label)}


def test_the_class_prior_is_the_loss_of_the_training_frequencies() -> None:
    task = digits()
    counts = Counter(task.train[1].tolist())
    losses = [-math.log(counts[c] / len(task.train[1])) for c in task.held_out[1].tolist()]
    assert task.baseline_losses() == pytest.approx({"class_prior": sum(losses) / len(losses)})


def test_mnist_has_five_hundred_images_of_each_digit_split_four_to_one() -> None:
    task = mnist()
    for (images, labels), count in ((task.train, 400), (task.held_out, 100)):
        assert torch.equal(torch.bincount(labels), torch.full((10,), count))
        assert images.shape == (10 * count, 1, 28, 28)
        assert images.min() == 0
        assert images.max() == 1
    assert task.baseline_losses() == pytest.approx({"class_prior": math.log(10)})


def test_a_margin_of_zeros_is_all_that_padding_adds() -> None:
    small, large = mnist().held_out[0], mnist(padded=True).held_out[0]
    assert torch.equal(large[..., 2:-2, 2:-2], small)
    assert large.count_nonzero() == small.count_nonzero()
