"""SynFlow's conservation law and closed forms."""

import math

import pytest
import torch

from proxies.registry import score, score_subject
from proxies.subject import Subject
from proxies.synflow import synaptic_flow
from searchspace.spec.arch import NONE, OpSpec
from tests.proxies.conftest import decoder, linear_classifier


def layers(subject):
    return [(w * gradient).abs().sum().item() for w, gradient in synaptic_flow(subject)]


def weights(subject):
    found = (subject.model.get_parameter(f"{part}.proj.weight") for part in ("stem", "head"))
    return [w.detach().double().abs() for w in found]


def test_each_layer_of_a_linear_chain_carries_the_same_flow():
    subject = Subject(linear_classifier(), None, seed=0)
    first, last = weights(subject)
    R = (last @ first).sum().item()
    assert layers(subject) == pytest.approx([R, R], rel=1e-12)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm", "repbn"])
def test_a_norm_scales_the_flow_and_keeps_it_equal_across_layers(norm):
    subject = Subject(linear_classifier(OpSpec(norm)), None, seed=0)
    first, last = weights(subject)
    h = first.sum(1)
    R = (last @ (h / h.square().mean().sqrt())).sum().item()
    assert layers(subject) == pytest.approx([R, R], rel=1e-9)


def test_log_synflow_is_the_sum_of_weights_times_log_gradients():
    subject = Subject(linear_classifier(), None, seed=0)
    first, last = weights(subject)
    h = first.sum(1)  # the gradient of every row of the last layer; the first layer's is the sum over classes
    expected = (last * h.log1p()).sum() + (first * last.sum(0).log1p().unsqueeze(1)).sum()
    found = score_subject(["log_synflow"], subject)["log_synflow"].value
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_signs_of_weights_do_not_matter():
    plain, flipped = (Subject(decoder(ffn="swiglu"), None, seed=0) for _ in range(2))
    with torch.no_grad():
        for parameter in flipped.model.parameters():
            parameter.mul_(-1)
    assert layers(plain) == layers(flipped)


def test_the_scored_network_keeps_its_weights(batch):
    subject = Subject(decoder(), batch, seed=0)
    before = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    synaptic_flow(subject)
    after = dict(subject.model.named_parameters())
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items()
    )


def test_flow_stays_finite_in_deep_gated_networks_and_says_so_where_it_can_not():
    deep = decoder(ffn="swiglu", num_blocks=24, mixer=NONE)
    assert math.isfinite(score(["synflow"], deep, None, seed=0)["synflow"].value)
    without_norms = decoder(ffn="swiglu", num_blocks=24, mixer=NONE, norm=NONE)
    result = score(["synflow"], without_norms, None, seed=0)["synflow"]
    assert math.isnan(result.value)
    assert result.reason.startswith("the score is ")
