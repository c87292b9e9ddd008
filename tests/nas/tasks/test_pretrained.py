"""Texts as tokens of a model; outputs that have to come close to vectors."""

import math

import pytest
import torch

from nas.tasks.base import Batch, accuracy, loss
from nas.tasks.pretrained import TokenTask
from nas.tasks.sequences import EmbeddingTask
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.spec.arch import ArchSpec, BlockSpec, OpSpec, StageSpec

EMBEDDING = OpSpec.of("embedding", pooling="mean", normalize=True)


def teacher() -> Model:
    stem = OpSpec.of("token_embedding", vocab_size=20, max_len=16)
    mlp = BlockSpec(ffn=OpSpec.of("mlp", d_ff=8, activation=OpSpec("gelu_erf")), norm=OpSpec("layernorm"))
    return Model(ArchSpec("embedding", stem, 6, (mlp,), (StageSpec(1, 6),), EMBEDDING)).eval()


def task() -> EmbeddingTask:
    lengths = torch.arange(1, 11)
    tokens = torch.randint(1, 20, (10, 10), dtype=torch.int32)
    return EmbeddingTask("texts", "made up", (tokens, lengths), (tokens, lengths), teacher())


def test_targets_are_the_teachers_embeddings_of_the_unpadded_texts():
    made = task()
    batch = made.batch(0, 4, seed=1)
    assert batch.valid is not None
    for row, target, valid in zip(batch.inputs, batch.targets, batch.valid, strict=True):
        alone = made.teacher(row[valid].unsqueeze(0))[0][0]
        torch.testing.assert_close(target, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(batch.inputs, made.batch(0, 4, seed=1).inputs)
    assert int(batch.counted.sum()) == 4


def test_validation_takes_every_text_once_with_its_neighbours_in_length():
    made = task()
    batches = made.validation(None, 4)
    lengths = [int(n) for b in batches if b.valid is not None for n in b.valid.sum(1)]
    assert lengths == list(range(1, 11))
    assert [len(b.inputs) for b in made.validation(5, 2)] == [2, 2, 1]


@torch.no_grad()
def test_the_teacher_is_without_loss_and_right_and_another_text_is_neither():
    made = task()
    (batch,) = made.validation(None, 10)
    outputs = made.teacher(batch.inputs, Tokens(valid=batch.valid))[0]
    assert float(loss(outputs, batch.targets, batch.valid)) == pytest.approx(0, abs=1e-6)
    assert float(accuracy(outputs, batch.targets, batch.valid)) == 1.0
    assert float(accuracy(outputs.roll(1, 0), batch.targets, batch.valid)) == 0.0
    other = loss(outputs.roll(1, 0), batch.targets, batch.valid)
    assert made.baseline_losses()["another_text"] == pytest.approx(float(other), abs=1e-6)


def test_vectors_of_padding_do_not_count():
    targets, valid = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    outputs = targets.clone()
    outputs[~valid] *= -1
    assert float(loss(outputs, targets, valid)) == pytest.approx(0, abs=1e-6)
    assert float(loss(-outputs, targets, valid)) == pytest.approx(2, abs=1e-6)
    assert float(accuracy(outputs, targets, valid)) == 1.0
    assert int(Batch(torch.zeros(2, 3), targets, valid).counted.sum()) == 3


def test_baselines_of_tokens_are_those_of_their_counts():
    """Of 0 1 0 2 0 1 0 2 ...: after 0 comes 1 or 2 alike, after these always 0."""
    text = torch.tensor([0, 1, 0, 2] * 100, dtype=torch.int32)
    baselines = TokenTask("made", "up", (text,), (text[:-3],), 8).baseline_losses()
    assert baselines["split_bigram_entropy"] == pytest.approx(math.log(2) / 2, rel=1e-2)
    assert baselines["unigram"] == pytest.approx(1.5 * math.log(2), rel=1e-2)
