"""Gradient norm and SNIP against the gradient written out."""

import numpy as np
import pytest
import torch

from proxies.batch import Batch, random_batch
from proxies.gradients import loss_gradients
from proxies.registry import score_subject
from proxies.subject import Subject
from searchspace.spec.arch import NONE
from tests.proxies.conftest import VOCABULARY, decoder


def by_hand(model, batch):
    """[(weight, gradient)] of the readout and the embedding.

    Softmax regression on embeddings: logits X H^T, gradients (P - Y)^T X / n and (P - Y) H / n, row by row.
    """
    H = model.get_parameter("head.proj.weight").detach().double().numpy()
    E = model.get_parameter("stem.weight").detach().double().numpy()
    keep = np.ones(batch.targets.shape, bool) if batch.valid is None else batch.valid.numpy()
    ids, targets = batch.inputs.numpy()[keep], batch.targets.numpy()[keep]
    X = E[ids]
    P = np.exp(X @ H.T)
    P /= P.sum(1, keepdims=True)
    error = (P - np.eye(VOCABULARY)[targets]) / len(ids)
    dE = np.zeros_like(E)
    np.add.at(dE, ids, error @ H)
    return [(H, error.T @ X), (E, dE)]


@pytest.mark.parametrize("padded", [False, True])
def test_gradient_norm_and_snip_of_softmax_regression_are_the_closed_forms(padded):
    arch = decoder(norm=NONE, num_blocks=0)
    drawn = random_batch(arch, 3, seed=1)
    valid = torch.rand(drawn.targets.shape) < 0.5 if padded else None
    subject = Subject(arch, Batch(drawn.inputs, drawn.targets, valid), seed=0)
    found = score_subject(["gradient_norm", "snip"], subject)
    pairs = by_hand(subject.model, subject.batch)
    assert found["gradient_norm"].value == pytest.approx(sum(np.linalg.norm(g) for _, g in pairs), rel=1e-5)
    assert found["snip"].value == pytest.approx(sum(np.abs(w * g).sum() for w, g in pairs), rel=1e-5)


def test_gradients_are_those_of_the_loss_by_finite_differences(batch):
    subject = Subject(decoder(), batch, seed=0)
    subject.model.double()
    gradients = loss_gradients(subject)
    name = "blocks.0.ffn.up_proj.weight"
    weight = subject.model.get_parameter(name)
    direction = gradients[name] / gradients[name].norm()

    def loss(step):
        with torch.no_grad():
            moved = {name: weight + step * direction}
            logits, _ = torch.func.functional_call(subject.model, moved, (batch.inputs,))
            log_p = logits.log_softmax(-1)
            return -log_p.gather(-1, batch.targets.unsqueeze(-1)).mean().item()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert gradients[name].norm().item() == pytest.approx(slope, rel=1e-6)
