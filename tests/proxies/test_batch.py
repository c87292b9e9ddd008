"""Random batches fit the space and follow from the seed."""

import pytest
import torch

from proxies.batch import random_batch
from searchspace.load import load_space


@pytest.mark.parametrize(
    ("space", "inputs", "targets", "num_targets"),
    [("tiny-lm", (5, 64), (5, 64), 256), ("tiny-vision", (5, 1, 8, 8), (5,), 10)],
)
def test_a_random_batch_fits_the_space(space, inputs, targets, num_targets):
    batch = random_batch(load_space(space), 5, seed=0)
    assert batch.inputs.shape == inputs
    assert batch.targets.shape == targets
    assert 0 <= batch.targets.min() <= batch.targets.max() < num_targets


def test_a_random_batch_follows_from_its_seed_alone():
    space = load_space("tiny-lm")
    first = random_batch(space, 2, seed=1)
    torch.manual_seed(5)
    assert torch.equal(random_batch(space, 2, seed=1).inputs, first.inputs)
    assert not torch.equal(random_batch(space, 2, seed=2).inputs, first.inputs)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least 1 example, got batch_size 0"):
        random_batch(load_space("tiny-lm"), 0, seed=0)
