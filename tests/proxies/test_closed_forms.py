"""Gradient proxies of linear networks against their closed forms, and of deeper ones against plain loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from proxies.batch import Batch, random_batch
from proxies.correlation import EPS
from proxies.gradients import example_gradients, loss_pass
from proxies.ntk_condition import tangent_kernel
from proxies.registry import score_subject
from proxies.subject import Subject
from proxies.synaptic_diversity import nuclear_norm
from proxies.zen import NUM_PAIRS
from tests.proxies.conftest import decoder, linear_classifier

B = 3


@pytest.fixture
def linear() -> Subject:
    """logits = H P x, in float64."""
    arch = linear_classifier()
    batch = random_batch(arch, B, seed=1)
    subject = Subject(arch, Batch(batch.inputs.double(), batch.targets), seed=0)
    subject.model.double()
    return subject


def parts(subject):
    """P [D, pixels], H [classes, D], x [B, pixels] and the targets in numpy."""
    P, H = (subject.model.get_parameter(f"{part}.proj.weight").detach().numpy() for part in ("stem", "head"))
    return P, H, subject.batch.inputs.flatten(1).numpy(), subject.batch.targets.numpy()


def value(subject, name):
    result = score_subject([name], subject)[name]
    assert result.reason == ""
    return result.value


def example_losses(subject):
    """(dL_b/dH, dL_b/dP) of each example: (p - y) h^T and H^T (p - y) x^T."""
    P, H, X, targets = parts(subject)
    for x, target in zip(X, targets, strict=True):
        p = np.exp(H @ P @ x)
        error = p / p.sum() - np.eye(len(H))[target]
        yield np.outer(error, P @ x), np.outer(H.T @ error, x)


def test_zico_of_a_linear_network_is_the_closed_form(linear):
    readout, embedding = (np.abs(np.stack(g)) for g in zip(*example_losses(linear), strict=True))
    expected = sum(np.log((g.mean(0) / g.std(0)).sum()) for g in (embedding, readout))
    assert value(linear, "zico") == pytest.approx(expected, rel=1e-9)


def test_the_tangent_kernel_of_a_linear_network_is_the_closed_form(linear):
    P, H, X, _ = parts(linear)
    hidden, back = X @ P.T, H.sum(0)
    expected = len(H) * hidden @ hidden.T + back @ back * X @ X.T
    np.testing.assert_allclose(tangent_kernel(linear).numpy(), expected, rtol=1e-9)
    eigenvalues = np.linalg.eigvalsh(expected)
    assert value(linear, "ntk_condition") == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-6)


def test_equal_examples_make_the_tangent_kernel_singular(linear):
    linear.batch.inputs[1] = linear.batch.inputs[0]
    result = score_subject(["ntk_condition"], linear)["ntk_condition"]
    assert result.reason == "the tangent kernel is singular" or result.value > 1e12


def test_input_gradients_of_a_linear_network_are_equal_and_give_the_limits(linear):
    expected = -((B - 1) * (math.log(EPS) + 1 / EPS) + math.log(B + EPS) + 1 / (B + EPS))
    assert value(linear, "jacobian_covariance") == pytest.approx(expected, rel=1e-6)
    assert value(linear, "jacobian_cosine") == pytest.approx(0.5, rel=1e-9)


def test_grasp_is_the_product_with_the_hessian(linear):
    weights = list(linear.model.parameters())
    loss = F.cross_entropy(linear.model(linear.batch.inputs)[0], linear.batch.targets)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    slope = torch.stack([(g * g.detach()).sum() for g in gradients]).sum()
    products = torch.autograd.grad(slope, weights)
    expected = -sum((w * h).sum() for w, h in zip(weights, products, strict=True)).item()
    assert value(linear, "grasp") == pytest.approx(expected, rel=1e-2)


def test_zen_without_blocks_and_norms_is_the_size_of_the_noise(linear):
    P, *_ = parts(linear)
    X = random_batch(linear.arch, NUM_PAIRS, seed=0).inputs.flatten(1).numpy()
    noise = torch.randn((NUM_PAIRS, 1, len(P)), generator=torch.Generator().manual_seed(0))
    rms = np.sqrt(np.mean((X @ P.T) ** 2))
    expected = math.log(rms * noise.flatten(1).norm(dim=1).mean().item())
    assert value(linear, "zen") == pytest.approx(expected, rel=1e-6)


def test_gradients_of_single_examples_are_those_of_a_loop(batch):
    subject = Subject(decoder(), batch, seed=0)
    of_examples = list(example_gradients(subject, loss_pass(subject)))
    names = [n for n, w in subject.model.named_parameters() if w.dim() == 2 and n != "stem.weight"]
    order = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    used = [next(n for n in names if f"blocks.{i}." in n and part in n) for i in range(2) for part in order]
    for b in range(len(batch.inputs)):
        logits, _ = subject.model(batch.inputs[b : b + 1])
        loss = F.cross_entropy(logits[0], batch.targets[b]) / len(batch.inputs)
        expected = torch.autograd.grad(loss, [subject.model.get_parameter(n) for n in used])
        for found, gradient in zip(of_examples, expected, strict=False):
            torch.testing.assert_close(found[b], gradient, rtol=1e-4, atol=1e-7)


def test_fisher_of_one_example_is_half_the_squared_effect_of_the_channels(batch):
    one = Batch(batch.inputs[:1], batch.targets[:1])
    subject = Subject(decoder(num_blocks=1), one, seed=0)
    outputs = []
    for part in ("mixer", "ffn"):
        module = subject.model.part(f"blocks.0.{part}")
        module.register_forward_hook(lambda _, inputs, output: outputs.append(output[0]))
    loss = F.cross_entropy(subject.model(one.inputs)[0][0], one.targets[0])
    pairs = zip(outputs, torch.autograd.grad(loss, outputs), strict=True)
    expected = sum(((a * g).sum((0, 1)) ** 2).sum() / 2 for a, g in pairs).item()
    assert value(subject, "fisher") == pytest.approx(expected, rel=1e-4)


def test_taylor_squared_adds_a_unit_before_it_squares(batch):
    subject = Subject(decoder(), batch, seed=0)
    gradients = loss_pass(subject).weights
    expected = 0.0
    for name, w in subject.model.named_parameters():
        if name.startswith("blocks.") and "_norm_" not in name:
            for row, gradient in zip(w.detach(), gradients[name], strict=True):
                expected += (row @ gradient).item() ** 2
    assert value(subject, "taylor_squared") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_the_nuclear_norm_is_the_sum_of_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert nuclear_norm(matrix) == pytest.approx(torch.linalg.svdvals(matrix).sum().item(), rel=1e-9)
