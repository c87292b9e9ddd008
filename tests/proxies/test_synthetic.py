"""The made-up tasks can be solved from what comes before, and from nothing that stands at an answer's place."""

from dataclasses import replace

import pytest
import torch

from proxies.batch import Batch
from proxies.registry import score
from proxies.synthetic import BATCH_SIZE, compression, copying, last_token_signed, recall
from searchspace.spec.arch import OpSpec
from tests.proxies.conftest import decoder, linear_classifier

MAD = ("mad_recall", "mad_copying", "mad_compression")


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("T", "A"), [(8, 16), (64, 16), (7, 5)])
def test_every_recalled_value_was_told_with_its_key_and_does_not_stand_among_the_questions(T, A):
    task = recall(T, A, generator())
    n = min(T // 4, A // 2)
    assert task.valid is not None
    for ids, answers, valid in zip(task.inputs, task.targets, task.valid, strict=True):
        told = dict(zip(ids[: 2 * n : 2].tolist(), ids[1 : 2 * n : 2].tolist(), strict=True))
        assert len(told) == n
        assert valid.tolist() == [t >= 2 * n for t in range(T)]
        assert [told[key] for key in ids[2 * n :].tolist()] == answers[2 * n :].tolist()
        assert set(told) <= set(range(A // 2))
        assert set(told.values()) <= set(range(A // 2, A))


@pytest.mark.parametrize("T", [8, 9])
def test_what_is_copied_stands_once_at_the_start_with_blanks_after_it(T):
    task = copying(T, 16, generator())
    n = T // 2
    assert torch.equal(task.targets[task.valid], task.inputs[:, :n].flatten())
    assert (task.inputs[:, :n] > 0).all()
    assert (task.inputs[:, n:] == 0).all()


def test_the_head_of_the_compression_task_reads_the_last_token_alone():
    task = compression(8, 16, generator())
    assert task.inputs.shape == (BATCH_SIZE, 8)
    x = torch.randn(2, 8, 4, generator=generator())
    signed = last_token_signed(x)
    assert torch.equal(signed.abs(), x[:, -1:].abs().expand(2, 8, 4))
    other = torch.cat((torch.zeros(2, 7, 4), x[:, -1:]), 1)
    assert torch.equal(last_token_signed(other), signed)


def test_a_network_of_images_says_so():
    images = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    reasons = {s.reason for s in score(MAD, linear_classifier(), images, seed=0).values()}
    assert reasons == {"patch_embedding takes no tokens"}


def test_few_steps_already_find_which_ids_are_answers():
    untrained = torch.tensor(16.0).log().item()  # of the 16 ids that there are; the values are 8 of them
    assert score(["mad_recall"], decoder(), None, seed=0)["mad_recall"].value < untrained


def test_a_head_that_tells_fewer_ids_than_the_task_uses_says_so():
    narrow = replace(decoder(), head=OpSpec.of("lm_head", vocab_size=2))
    reasons = {s.reason for s in score(MAD, narrow, None, seed=0).values()}
    assert reasons == {"the head tells 2 ids apart, the task uses 16"}
